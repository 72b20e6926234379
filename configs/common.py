# SPDX-License-Identifier: Apache-2.0
"""Every field of a run, once, with its unit and meaning.

On the command line: `--config.optim.learning_rate=1e-4 --config.sampling.attempt_tokens='(24,24)'`.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
  """The defaults: SCoRe on the bundled Countdown base, Stage I and then Stage II."""
  config = ConfigDict()
  # 'score': train self-correction; 'supervised': a supervised baseline (docs/baselines.md)
  config.mode = 'score'
  config.seed = 0  # of problems, samples and initialization
  config.max_steps = 0  # stops cleanly after this many steps; 0: after all stages
  # Where compiled programs are kept. 'auto': ~/.cache/score_jax if there is an accelerator; '': nowhere.
  config.compile_cache = 'auto'
  config.init_from = ''  # a run folder: start from its best policy, with a fresh optimizer
  config.model = model()
  config.lora = lora()
  config.task = task()
  config.grading = grading()
  config.batch = batch()
  config.sampling = sampling()
  config.schedule = ('stage1', 'stage2')  # names of config.stages; name them again to interleave
  config.stages = ConfigDict(dict(stage1=stage1(), stage2=stage2()))
  config.offline_pool = 64  # problems of the base's first attempts for stages with offline_first > 0
  config.loss = loss()
  config.optim = optim()
  config.eval = evaluation()
  config.report = report()
  config.checkpoint = checkpoint()
  config.selection = selection()
  config.faults = faults()
  config.mesh = mesh()
  config.hosts = hosts()
  config.supervised = supervised()
  return config


def model() -> ConfigDict:
  """What is trained."""
  model = ConfigDict()
  model.path = 'bundled:countdown_base'  # an HF folder, a hub id, or 'bundled:NAME'
  # Compute dtype: 'float32', 'bfloat16', 'auto' (bfloat16 where the accelerator has it). Weights: f32
  model.dtype = 'auto'
  # What the backward pass computes again: 'none'; 'elementwise', all but products; 'dots', attention's products too;
  # 'full', whole layers; 'auto', by device and model: on a CPU 'elementwise' where 'none' would keep above 1 GiB
  model.remat = 'auto'
  model.logits_mb = 0.0  # MB of f32 logits at a time, on each device; 0: by device and model
  return model


def lora() -> ConfigDict:
  """Low-rank adapters beside a frozen model, which then is the reference."""
  lora = ConfigDict()
  lora.rank = 0  # R; 0: no adapters, all weights are trained
  lora.alpha = 32.0  # an adapter's output is multiplied by alpha / rank
  lora.targets = '[qkvo]_proj|(gate|up|down)_proj'  # regular expression on names of projections
  return lora


def task() -> ConfigDict:
  """Problems and prompts. docs/tasks.md says what each task reads."""
  task = ConfigDict()
  # A name of score_jax.tasks.TASKS: countdown, gsm8k, math, mbpp, humaneval, jsonl; or FILE.py:FUNCTION, a function
  # (split, seed) -> problems of 'train' or 'heldout' (docs/rewards.md).
  task.name = 'countdown'
  task.evaluate = ''  # the task whose held-out problems are evaluated; '': the same. For mbpp: 'humaneval'
  task.data = ConfigDict(type_safe=False)  # a name, or a tuple of names:
  # files (.jsonl, .jsonl.gz, .parquet), folders ('DIR:test' for files with the word in their path),
  # 'hf:OWNER/NAME[/CONFIG]:SPLIT[@REVISION]' or 'tfds:NAME/SPLIT'
  task.data.train = ()
  task.data.heldout = ()  # never trained on
  task.prompt = ''  # the first user turn around {question}; '': the task's own
  # Training problems whose prompt exceeds sampling.prompt_tokens: an 'error', or 'drop'. Held-out ones must fit.
  task.long_prompts = 'error'
  task.system = ''  # system prompt; joins the first user turn if the template has no such role
  task.instruction = 'Check and retry.'  # the user turn before every further attempt; never says if one was right
  # Instead of the tokenizer's own template: a .jinja file, or a bundled one (docs/prompts.md): 'bundled:chatml',
  # 'bundled:plain' for a base model, ...
  task.chat_template = ''
  task.template_kwargs = ''  # what the template reads beside the messages: "{'enable_thinking': False}"
  task.examples = ''  # few-shot: a .jsonl file of {"messages": [...]}, turns that stand before every question
  # A reward of your own, FILE.py:FUNCTION (docs/rewards.md), or a name of score_jax.graders.registry.GRADERS; '': the
  # task's own verifier, and the reward is 1 for a correct attempt.
  task.reward = ''
  task.rewards = ''  # several with weights, instead: "{'math': 1.0, 'my_rewards.py:brevity': 0.1}"
  # The share of golds without a value for verifier math, such as names, or of tests that refuse their solution, above
  # which data are refused.
  task.unreadable_golds = 0.1
  task.correct_at = 1.0  # score from which an attempt is correct; a built-in verifier among the rewards decides itself
  task.reward_format = 'text'  # what functions of TRL's form get: 'text', or lists of 'messages'
  task.date = '2024-07-26'  # what a template that writes today's date is told: the same when a run is resumed
  task.countdown = ConfigDict()
  task.countdown.numbers = 4  # numbers a problem gives
  task.countdown.max_number = 10  # numbers are 1..max_number
  task.countdown.max_value = 50  # results stay in 0..max_value
  task.countdown.operations = '+-*'  # what a solution may use, of + - * /
  task.countdown.any_order = True  # whether a solution may need the numbers in another order
  task.countdown.heldout_fraction = 0.1  # of all problems, by hash; never trained on
  task.countdown.prompt = 'reach {target} with {numbers}'  # the first user turn
  task.mbpp = ConfigDict()
  task.mbpp.splits = ('train',)  # trained on: 'train' (374), 'validation' (90), 'test' (500)
  task.mbpp.examples = 3  # solved problems before every question, as in MBPP's paper; 0: none
  task.mbpp.tests = 0  # of a problem's three tests, how many its question shows; 0: all. All of them grade
  task.jsonl = ConfigDict()  # a file of your own
  task.jsonl.question = 'question'  # name of the column
  task.jsonl.answer = 'answer'  # name of the column: an answer, or `assert` lines
  # Name of the column with a program that passes its tests, by which these are tried at the start; '': none
  task.jsonl.solution = ''
  task.jsonl.id = ''  # name of the column; '': a hash of the question
  task.jsonl.tags = ()  # names of columns by which results are split
  task.jsonl.verifier = 'math'  # text, math, math_verify, code, countdown
  task.jsonl.heldout_fraction = 0.1  # held out by hash where task.data.heldout names nothing
  return task


def grading() -> ConfigDict:
  """Processes that grade answers, and what one answer may take."""
  grading = ConfigDict()
  grading.workers = 0  # processes; 0: one for each core. Countdown and exact text need none
  grading.cpu_seconds = 5.0  # own time of an answer or a program; then the verdict is `timeout`
  grading.memory_mb = 512  # of an answer or a program
  grading.wall_seconds = 60.0  # that a reward function of yours may take in all, waiting for a service included
  grading.environment = ()  # names of environment variables that it sees, such as ('JUDGE_KEY',); it sees no others
  # Runs model-written programs even where the sandbox is incomplete: unsafe, for machines that are thrown away.
  grading.unsafe_code = False
  return grading


def batch() -> ConfigDict:
  """Conversations of a step."""
  batch = ConfigDict()
  batch.problems = 64  # problems a step
  batch.samples = 8  # G: conversations a problem, 2 or more
  batch.micro_batches = 1  # parts of whole problems whose gradients are added; lowers memory
  batch.pack = False  # conversations end to end in the update, without padding
  return batch


def sampling() -> ConfigDict:
  """How attempts are sampled."""
  sampling = ConfigDict()
  sampling.prompt_tokens = 10  # slots for the prompt; a longer one is an error
  sampling.attempt_tokens = (18, 20)  # budget of each attempt, its end-of-turn included; its length is A
  sampling.decode_slots = 0  # conversations decoded at a time on a device; 0: all
  # Tokens that a decode step guesses of a conversation, on average, from what it holds already: second attempts repeat
  # much of the first. At most `longest_draft` of one; sure guesses come first. They change how many steps are taken,
  # not what is sampled (docs/performance.md). `benchmarks.main drafts` proposes a number.
  sampling.drafts = 0.0
  sampling.longest_draft = 8  # tokens guessed of one conversation at a step, at most
  # Of cached keys and values: 'auto' (the compute dtype), 'float32', 'bfloat16', 'float8_e4m3fn'. A smaller one takes
  # less memory, and on a GPU more time: the decode kernel reads the compute dtype alone.
  sampling.cache_dtype = 'auto'
  # Devices while attempts are sampled, where a decode step reads the weights for few rows a device: more of them then
  # share heads, feed-forward and vocabulary. The doctor proposes it; docs/howto_pod.md.
  sampling.mesh = ConfigDict()
  sampling.mesh.data = 0  # copies of the model; 0: all devices that tensor leaves
  sampling.mesh.tensor = 0  # devices that share a copy; 0: all that data leaves, and both 0: as config.mesh
  return sampling


def loss() -> ConfigDict:
  """The estimator. docs/method.md has the equations."""
  loss = ConfigDict()
  loss.kl_form = 'k1_togo'  # 'k1_togo', 'k1', 'k2_seq': unbiased; 'k2_token', 'exact': prefixes held fixed
  loss.importance_cap = 0.0  # cap of the trainer/sampler weight of a token; 0: no such weight
  # Log each attempt's gradient norm, for a backward pass each. None: for models up to 50 million parameters
  loss.attempt_gradient_norms = config_dict.placeholder(bool)
  return loss


def optim() -> ConfigDict:
  """Adam."""
  optim = ConfigDict()
  optim.learning_rate = 4e-4  # peak
  optim.schedule = 'constant'  # 'constant', 'linear' or 'cosine' (to 0), over each stage
  optim.warmup_steps = 5  # linear, at the start of each stage
  optim.b1 = 0.9  # decay of the mean of gradients
  optim.b2 = 0.95  # and of their squares
  optim.eps = 1e-8  # added to the root of the squares' mean
  optim.weight_decay = 0.0  # AdamW, of matrices; 0: Adam
  optim.clip_norm = 1.0  # global gradient norm; 0: no clipping
  optim.max_rejected_in_a_row = 5  # steps in a row with non-finite numbers
  return optim


def evaluation() -> ConfigDict:
  """Two-attempt evaluation on held-out problems."""
  evaluation = ConfigDict()
  evaluation.problems = 2048  # held-out problems; 0: all
  evaluation.seed = 1  # of the held-out problems and their samples
  evaluation.every = 0  # steps between evaluations during training; 0: before and after only
  return evaluation


def report() -> ConfigDict:
  """What is shown of a run. docs/report.md says how to read it."""
  report = ConfigDict()
  report.rows = 4  # conversations of a step kept in rows/train.jsonl
  report.every = 0  # steps between writings of report.html; 0: at the end only
  report.kl_alarm = 10.0  # nats: KL of attempt 1 to the reference that raises an alarm
  report.stop_on = ()  # names of alarms (reporting/alarms.py) that end the run, e.g. ('sandbagged',)
  # Trackers, which get the steps that a checkpoint holds. Each needs the extra of its name.
  report.tensorboard = False  # scalars and conversations to WORKDIR/tensorboard
  report.wandb = ''  # project on Weights & Biases; '': none
  report.wandb_entity = ''  # the user or team that has it; '': your default one
  report.trackio = ''  # project of Trackio; '': none. TRACKIO_SPACE_ID names a Space for it
  report.group = ''  # by which W&B and Trackio put runs together; '': none
  report.tags = ()  # of the run on W&B
  return report


def checkpoint() -> ConfigDict:
  """What is kept."""
  checkpoint = ConfigDict()
  checkpoint.every = 10  # steps between checkpoints
  checkpoint.keep = 2  # newest ones kept, beside the best
  checkpoint.best_window = 10  # steps whose mean training return decides the best
  return checkpoint


def selection() -> ConfigDict:
  """What the best checkpoint is chosen by where methods are compared, the same for each."""
  selection = ConfigDict()
  # Training problems answered at every checkpoint of the last stage. 0: the training return decides.
  selection.problems = 0
  selection.reward_weights = (1.0, 1.0)  # as a stage's: Stage II of the paper
  selection.bonus = (0.0, 10.0)  # alpha, as a stage's
  return selection


def faults() -> ConfigDict:
  """What ends a run early, and when. docs/faults.md has the exit codes."""
  faults = ConfigDict()
  # Seconds that a step may take after SIGTERM or Ctrl-C; then the state before it is saved, which comes on top.
  faults.grace_seconds = 25.0
  faults.max_failed_saves = 3  # saves in a row that may fail; then exit code 75
  # Refuse, before weights are loaded, what takes more memory than the devices have; False: begin all the same.
  faults.check_memory = True
  faults.forget_best = False  # go on, once, from a run whose best checkpoint is damaged
  # A phase of a step (sample, grade, update, save, ...) that takes longer than `stuck_factor` times its slowest so far,
  # and than `stuck_seconds`, is stuck: stacks to WORKDIR/stuck-*.txt, exit code 75.
  faults.stuck_factor = 5.0  # 0: wait for ever
  faults.stuck_seconds = 300.0  # that a phase takes before it can be stuck
  faults.stuck_first_seconds = 3600.0  # instead, the first time: programs are compiled
  faults.max_rejected = 0.01  # share of the newest 200 steps that may be rejected; 0: any
  # Limits that stop a run (exit code 70) when three steps in a row are above them. 0: none.
  faults.kl_limit = 0.0  # nats of an attempt's KL to the reference, mean over rows
  faults.mismatch_stop = 0.0  # nats between sampler and trainer: mean |difference| of a token's log-probability
  return faults


def mesh() -> ConfigDict:
  """Devices."""
  mesh = ConfigDict()
  mesh.data = -1  # copies of the model; -1: all devices that fsdp and tensor leave
  mesh.fsdp = 1  # devices that share parameters and optimizer; -1 (and data 1): all that tensor leaves
  mesh.tensor = 1  # devices that share heads, feed-forward and vocabulary
  return mesh


def hosts() -> ConfigDict:
  """How long the processes of a run wait for each other (--distributed)."""
  hosts = ConfigDict()
  hosts.init_seconds = 300  # until all are there
  hosts.heartbeat_seconds = 100  # without a sign of life after which one is lost
  hosts.barrier_seconds = 1800  # until one comes where the others are; an export or compilation must fit
  return hosts


def supervised() -> ConfigDict:
  """Of mode 'supervised': pair_sft.py, star.py. docs/baselines.md has the definitions."""
  supervised = ConfigDict()
  supervised.dataset = 'star'  # pairs: 'star', of one conversation; 'sft', with a random right answer
  supervised.plus = False  # also pairs whose first attempt is right: the paper's D+
  supervised.iterations = 3  # each from the run's start, on conversations of the model before it
  supervised.steps = 20  # updates in each, of batch.problems x batch.samples pairs
  supervised.problems = 1280  # training problems that are answered for each
  supervised.samples = 8  # conversations on each of them
  supervised.loss_on = (False, True)  # which attempts carry loss
  return supervised


def stage1() -> ConfigDict:
  """Stage I: only the second attempt is rewarded, and the first is held near the reference (beta2)."""
  stage = ConfigDict()
  stage.steps = 30  # updates each time it runs
  stage.reward_weights = (0.0, 1.0)  # weight of each attempt's own correctness
  stage.bonus = (0.0, 0.0)  # alpha: weight of the gain over the attempt before
  stage.kl_weights = (0.1, 0.01)  # beta of each attempt: (beta2, beta1) of the paper
  # KL in nats that each attempt is steered to by its beta, a little every step: e.g. (0.05, 0.0); 0 leaves an attempt's
  # beta as it is, () all of them.
  stage.kl_target = ()
  stage.gamma = 0.0  # how far an attempt answers for the rewards of later ones
  stage.reference = 'base'  # what the KL is to: 'base', or 'stage_start', the policy as the stage begins
  stage.offline_first = 0.0  # fraction of problems with first attempts of the base, not trained
  # Whether a problem's samples are given one and the same of these: attempt 2's baseline then knows attempt 1, and a
  # copy earns no credit.
  stage.offline_shared = False
  # Least share of wrong ones among these, by leaving right ones out of the pool; 0: as sampled. Needs offline_shared
  stage.offline_wrong = 0.0
  stage.optim = ConfigDict()
  stage.optim.learning_rate = 0.0  # peak; 0: config.optim's
  stage.optim.schedule = ''  # '': config.optim's
  stage.optim.warmup_steps = -1  # -1: config.optim's
  stage.optim.reset_moments = False  # start the stage with fresh Adam moments
  return stage


def stage2() -> ConfigDict:
  """Stage II: both attempts are rewarded, the second with a bonus alpha for improving."""
  stage = stage1()
  stage.steps = 30
  stage.reward_weights = (1.0, 1.0)
  stage.bonus = (0.0, 10.0)
  stage.kl_weights = (0.01, 0.01)
  stage.optim.learning_rate = 2e-4  # lower: the bonus moves the policy faster
  return stage
