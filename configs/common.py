"""Every field of a run, once, with its unit and meaning. Other files of this folder change a few of them.

On the command line: `--config.optim.learning_rate=1e-4 --config.sampling.attempt_tokens='(24,24)'`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The defaults: SCoRe on the bundled Countdown base, Stage I and then Stage II."""
  config = ConfigDict()
  config.mode = 'score'  # 'score': train self-correction; 'pretrain': make the bundled base
  config.seed = 0  # of problems, samples and initialization
  config.max_steps = 0  # stop cleanly after this many steps in all; 0: after all stages
  # Where compiled programs are kept for later runs. 'auto': ~/.cache/score_jax if there is an accelerator; '': nowhere.
  config.compile_cache = 'auto'
  config.init_from = ''  # a run folder: start from its best policy, with a fresh optimizer

  config.model = ConfigDict()
  config.model.path = 'bundled:countdown_base'  # any HF folder; 'bundled:NAME' is a model shipped in score_jax/assets
  config.model.dtype = 'auto'  # compute dtype: 'float32', 'bfloat16', 'auto' (bfloat16 on accelerators). Weights: f32
  config.model.remat = 'none'  # what the backward pass repeats: 'none'; 'dots', all but products; 'full', whole layers
  config.model.logits_mb = 1024.0  # MB of f32 logits that exist at a time, on each device

  config.lora = ConfigDict()  # train low-rank adapters beside a frozen model, which then is the reference as well
  config.lora.rank = 0  # R; 0: no adapters, all weights are trained
  config.lora.alpha = 32.0  # an adapter's output is multiplied by alpha / rank
  config.lora.targets = '[qkvo]_proj|(gate|up|down)_proj'  # regular expression on the whole names of projections

  config.task = ConfigDict()
  config.task.name = 'countdown'  # a name of score_jax.tasks.TASKS
  config.task.system = ''  # system prompt; joins the first user turn where the template has no such role
  config.task.instruction = (
    'Check and retry.'  # the user turn before every further attempt; never says if one was right
  )
  # Instead of the tokenizer's own template: a .jinja file, 'bundled:chatml', or 'bundled:plain' for a base model.
  config.task.chat_template = ''
  config.task.examples = ''  # few-shot: a .jsonl file of {"messages": [...]}, turns that stand before every question
  config.task.date = '2024-07-26'  # what a template that writes today's date is told: the same when a run is resumed
  config.task.countdown = ConfigDict()
  config.task.countdown.numbers = 4  # numbers a problem gives
  config.task.countdown.max_number = 10  # numbers are 1..max_number
  config.task.countdown.max_value = 50  # results stay in 0..max_value
  config.task.countdown.operations = '+-*'  # what a solution may use, of + - * /
  config.task.countdown.any_order = True  # whether a solution may need the numbers in another order than shown
  config.task.countdown.heldout_fraction = 0.1  # of all problems, by hash; never trained on
  config.task.countdown.prompt = 'reach {target} with {numbers}'  # the first user turn

  config.batch = ConfigDict()
  config.batch.problems = 64  # problems a step
  config.batch.samples = 8  # G: conversations a problem, 2 or more
  config.batch.micro_batches = 1  # parts of whole problems whose gradients are added; lowers memory
  config.batch.pack = (
    False  # conversations end to end in the update, without padding; one program per sixteenth of fill
  )

  config.sampling = ConfigDict()
  config.sampling.prompt_tokens = 10  # slots for the prompt; a longer one is an error
  config.sampling.attempt_tokens = (18, 20)  # budget of each attempt, its end-of-turn included; its length is A
  config.sampling.lanes = 0  # conversations decoded at a time on each device; the others wait for one to end. 0: all
  # Of cached keys and values: 'auto' (the compute dtype), 'float32', 'bfloat16', 'float8_e4m3fn'. Others than the
  # compute dtype take less memory, and on a GPU more time: the decode kernel reads its own dtype alone.
  config.sampling.cache_dtype = 'auto'
  config.sampling.temperature = 1.0  # of training rollouts; the method needs 1
  config.sampling.top_k = 0  # 0: off
  config.sampling.top_p = 1.0  # 1: off

  config.order = ('stage1', 'stage2')  # the run: names of config.stages; name them again to interleave
  config.stages = ConfigDict()
  config.stages.stage1 = stage1()
  config.stages.stage2 = stage2()
  config.offline_pool = 64  # problems whose first attempts the base samples for a stage with offline_first > 0

  config.loss = ConfigDict()
  config.loss.kl_form = 'k1_togo'  # 'k1_togo', 'k1', 'k2_seq': unbiased; 'k2_token', 'exact': prefixes held fixed
  config.loss.importance_cap = 0.0  # cap of the trainer/sampler weight of a token; 0: no such weight
  config.loss.attempt_gradient_norms = True  # log each attempt's gradient norm; costs a backward pass per attempt

  config.optim = ConfigDict()
  config.optim.learning_rate = 4e-4  # peak
  config.optim.schedule = 'constant'  # 'constant', 'linear' or 'cosine' (to 0), over each stage
  config.optim.warmup_steps = 5  # linear, at the start of each stage
  config.optim.b1 = 0.9  # Adam
  config.optim.b2 = 0.95  # Adam
  config.optim.eps = 1e-8  # Adam
  config.optim.weight_decay = 0.0  # AdamW, of matrices; 0: Adam
  config.optim.clip_norm = 1.0  # global gradient norm; 0: no clipping
  config.optim.max_rejected_in_a_row = 5  # stop after so many steps with non-finite numbers in a row

  config.eval = ConfigDict()
  config.eval.problems = 2048  # held-out problems
  config.eval.seed = 1  # of the held-out problems and their samples
  config.eval.every = 0  # steps between evaluations during training; 0: before and after only

  config.checkpoint = ConfigDict()
  config.checkpoint.every = 10  # steps between checkpoints
  config.checkpoint.keep = 2  # newest checkpoints kept, beside the best
  config.checkpoint.best_window = 10  # steps of the last stage whose mean training return decides the best

  config.mesh = ConfigDict()
  config.mesh.data = -1  # copies of the model; -1: all devices that fsdp and tensor leave
  config.mesh.fsdp = 1  # devices over which parameters and optimizer are spread
  config.mesh.tensor = 1  # devices over which heads, feed-forward and vocabulary are spread

  config.pretrain = ConfigDict()  # only mode 'pretrain' reads it: configs/pretrain_countdown.py
  config.pretrain.conversations = 500_000  # made once, then drawn from
  config.pretrain.rows = 256  # conversations a step
  config.pretrain.steps = 3600
  config.pretrain.width = 64  # D
  config.pretrain.layers = 4  # N
  config.pretrain.heads = 4  # H = K
  config.pretrain.ffn = 192  # F
  config.pretrain.init_scale = 0.05  # standard deviation of initial matrices
  config.pretrain.mixture = ConfigDict()
  config.pretrain.mixture.first_wrong = 0.6  # conversations whose first attempt is wrong (context without loss)
  config.pretrain.mixture.first_forced = 0.5  # of those: chains that write the target down regardless
  config.pretrain.mixture.look_back = 0.25  # second attempts that judge the first, then repeat or mend it
  config.pretrain.mixture.wander = 0.08  # second attempts that are a wrong chain; the rest copies the first
  return config


def stage1() -> ConfigDict:
  """Stage I: only the second attempt is rewarded, and the first is held near the reference (beta2)."""
  stage = ConfigDict()
  stage.steps = 30  # updates per visit
  stage.pays = (0.0, 1.0)  # weight of each attempt's own correctness
  stage.bonus = (0.0, 0.0)  # alpha: weight of the gain over the attempt before
  stage.kl = (0.1, 0.01)  # beta of each attempt: (beta2, beta1) of the paper
  stage.gamma = 0.0  # how far an attempt answers for the rewards of later ones
  stage.reference = 'base'  # what the KL is to: 'base' (model.path), or 'stage_start', the policy as the stage begins
  stage.offline_first = 0.0  # fraction of problems whose first attempts come from the base and are not trained
  stage.optim = ConfigDict()
  stage.optim.learning_rate = 0.0  # peak; 0: config.optim's
  stage.optim.schedule = ''  # '': config.optim's
  stage.optim.warmup_steps = -1  # -1: config.optim's
  stage.optim.reset_moments = False  # start the stage with fresh Adam moments
  return stage


def stage2() -> ConfigDict:
  """Stage II: both attempts are rewarded, the second with a bonus alpha for improving on the first."""
  stage = stage1()
  stage.steps = 30
  stage.pays = (1.0, 1.0)
  stage.bonus = (0.0, 10.0)
  stage.kl = (0.01, 0.01)
  stage.optim.learning_rate = 2e-4  # lower: the bonus moves the policy faster, and the first attempt with it
  return stage
