"""Several processes as one: shares of minibatches, and commands that mpiexec starts."""
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
from types import SimpleNamespace

import chainer
import numpy as np
import pytest
from chainer.backends import cuda
from conftest import left_by_training

from chainer_caption import Dataset, InputError, Vocabulary
from chainer_caption.data.batches import CaptionDataset, PackCaptions, PackShare
from chainer_caption.models import EncoderDecoder, ShowAndTell
from chainer_caption.parallel import Processes, told_rank
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.files import read_json

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / 'scripts'
UNSEEN = ROOT / 'features' / 'demo' / 'unseen'
OPTIONS = '--hidden', '24', '--batch-size', '16', '--epochs', '4'


def find_mpiexec():
    pytest.importorskip('mpi4py', reason='needs mpi4py: scripts/setup.sh mpi')
    found = shutil.which('mpiexec', path=os.pathsep.join([os.path.dirname(sys.executable), os.environ['PATH']]))
    if found is None:
        pytest.skip('needs mpiexec: scripts/setup.sh mpi')
    return found


@pytest.fixture(scope='session')
def together(package_environment):
    """Runs Python in several processes: `together(2, *argv)` returns the result of `subprocess.run`."""
    mpiexec = find_mpiexec()
    environment = {**package_environment, 'OMPI_ALLOW_RUN_AS_ROOT': '1', 'OMPI_ALLOW_RUN_AS_ROOT_CONFIRM': '1',
                   # More processes than this machine may have cores; and none is tied to one that others are busy on.
                   'PRTE_MCA_rmaps_default_mapping_policy': ':oversubscribe',
                   'PRTE_MCA_hwloc_default_binding_policy': 'none'}

    def run(size, *argv):
        return subprocess.run([mpiexec, '-n', str(size), sys.executable, *map(str, argv)], env=environment,
                              capture_output=True, text=True, check=False, timeout=300)
    return run


@pytest.fixture(scope='module')
def trained(together, dataset_dir, tmp_path_factory):
    """Trains in some processes: `trained(size, *options)` returns the model directory, once for each call."""
    made = {}

    def make(size, *options):
        key = size, *options
        if key not in made:
            folder = tmp_path_factory.mktemp('together') / 'model'
            done = together(size, SCRIPTS / 'train.py', dataset_dir, '-o', folder, *OPTIONS, *options)
            assert (done.returncode, done.stderr) == (0, '')
            made[key] = folder, done.stdout
        return made[key]
    return make


def figures(folder):
    return [{key: value for key, value in entry.items() if key not in ('elapsed_time', 'samples')}
            for entry in read_json(folder / 'log.json')]


# ---- Shares

@pytest.mark.parametrize(('size', 'captions'), [(2, 24), (3, 24), (4, 3)])
@pytest.mark.parametrize('architecture', [ShowAndTell, EncoderDecoder])
def test_the_mean_of_the_shares_gradients_is_that_of_the_whole_minibatch(dataset_dir, size, captions, architecture):
    dataset = Dataset(dataset_dir)
    vocabulary = Vocabulary.from_counts(*dataset.word_counts('train'), min_count=1)
    data = CaptionDataset.from_dataset(dataset, vocabulary, 'train')
    batch = [data[i] for i in range(captions)]
    model = architecture(dataset.feature_size, len(vocabulary), 12, dropout=0, seed=0)

    def gradients(converter):
        model.cleargrads()
        loss = model(*converter(batch, None))
        loss.backward()
        return [loss.array, *(param.grad for param in model.params())]

    whole = gradients(PackCaptions(dataset.features))
    shares = [gradients(PackShare(dataset.features, rank, size, model.per_image)) for rank in range(size)]
    for expected, *parts in zip(whole, *shares, strict=True):
        np.testing.assert_allclose(np.mean(parts, axis=0), expected, rtol=1e-5, atol=1e-7)


def test_each_caption_is_in_one_share(dataset_dir):
    dataset = Dataset(dataset_dir)
    vocabulary = Vocabulary.from_counts(*dataset.word_counts('train'), min_count=1)
    data = CaptionDataset.from_dataset(dataset, vocabulary, 'train')
    batch = [data[i] for i in range(23)]
    shares = [PackShare(dataset.features, rank, 3)(batch, None) for rank in range(3)]
    assert sum(len(features) for features, *_ in shares) == 23
    tokens = [len(words) for _, words, *_ in shares]
    assert sum(tokens) == sum(len(targets) for _, targets in batch)
    assert max(tokens) - min(tokens) < max(len(targets) for _, targets in batch) * 2
    assert {share[-1] for share in shares} == {sum(tokens) / 3}


# ---- Who is there, and on which device

@pytest.mark.parametrize(('environment', 'rank'), [
    ({}, None),
    ({'OMPI_COMM_WORLD_RANK': '1', 'OMPI_COMM_WORLD_SIZE': '2', 'PMIX_RANK': '1'}, '1'),
    ({'PMI_RANK': '0', 'PMI_SIZE': '3'}, '0'),
    ({'PMIX_RANK': '0', 'SLURM_STEP_NUM_TASKS': '2', 'SLURM_NTASKS': '2'}, '0'),
    ({'PMIX_RANK': '0'}, '0'),                          # the number of processes is unknown
    # Alone: a task of Slurm's, also within a larger job; mpiexec -n 1.
    ({'PMIX_RANK': '0', 'SLURM_STEP_NUM_TASKS': '1', 'SLURM_NTASKS': '4'}, None),
    ({'PMI_RANK': '0', 'PMI_SIZE': '1'}, None),
    ({'OMPI_COMM_WORLD_RANK': '0', 'OMPI_COMM_WORLD_SIZE': '1', 'PMIX_RANK': '0'}, None),
    # Two of Open MPI's that were started from a shell which is a step of its own.
    ({'OMPI_COMM_WORLD_RANK': '0', 'OMPI_COMM_WORLD_SIZE': '2', 'PMIX_RANK': '0', 'SLURM_STEP_NUM_TASKS': '1'}, '0'),
])
def test_who_started_a_process_tells_which_it_is(environment, rank):
    assert told_rank(environment) == rank


@pytest.mark.parametrize(('tasks', 'status'), [('1', 0), ('2', 2)])
def test_a_single_task_of_slurm_needs_no_mpi(tasks, status, dataset_dir, package_environment, tmp_path):
    (tmp_path / 'mpi4py.py').write_text('raise ImportError("no MPI here")')
    path = os.pathsep.join([str(tmp_path), package_environment['PYTHONPATH']])
    done = subprocess.run([sys.executable, SCRIPTS / 'describe.py', dataset_dir], capture_output=True, text=True,
                          env={**package_environment, 'PYTHONPATH': path, 'PMIX_RANK': '0',
                               'SLURM_STEP_NUM_TASKS': tasks}, check=False)
    assert (done.returncode, 'no MPI here' in done.stderr) == (status, bool(status))


@pytest.fixture
def take_gpus(monkeypatch):
    """`take_gpus([what each process of a host sees, by bus addresses], number)` gives what each takes, when `-g NUMBER`
    is given: a list of addresses, or of the line with which a process is refused. Each touches no other GPU."""
    def take(seen, number=0):
        return [own(seen, rank, number) for rank in range(len(seen))]

    def own(seen, rank, number):
        touched = []
        runtime = SimpleNamespace(getDeviceCount=lambda: len(seen[rank]), deviceGetPCIBusId=seen[rank].__getitem__)
        cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime), zeros=lambda n: touched.append(current[-1]))
        current = []

        def device(name):
            return SimpleNamespace(xp=cupy, device=SimpleNamespace(id=int(name.removeprefix('@cupy:'))))

        @contextlib.contextmanager
        def using(device):
            current.append(device.device.id)
            yield
        host = SimpleNamespace(Get_rank=lambda: rank, allgather=lambda mine: seen)
        comm = SimpleNamespace(Get_rank=lambda: rank, Get_size=lambda: len(seen), Split_type=lambda kind: host)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, 'mpi4py', SimpleNamespace(MPI=SimpleNamespace(COMM_TYPE_SHARED=0)))
            patch.setattr(cuda, 'cupy', cupy)
            patch.setattr(chainer, 'get_device', device)
            patch.setattr(chainer, 'using_device', using)
            try:
                taken = Processes(comm).device(device(f'@cupy:{number}')).device.id
            except InputError as e:
                assert not touched
                return str(e)
            assert touched == [taken]
            return seen[rank][taken]
    return take


def test_processes_that_see_the_same_gpus_take_one_each(take_gpus):
    assert take_gpus([['a', 'b', 'c']] * 2) == ['a', 'b']
    assert take_gpus([['a', 'b', 'c']] * 2, 1) == ['b', 'c']
    first, second, third = take_gpus([['a', 'b']] * 3)
    assert (first, second) == ('a', 'b') and third.startswith('process 2 needs GPU 2 and sees 2; ')


def test_processes_that_are_shown_a_gpu_each_take_that(take_gpus):
    assert take_gpus([['a'], ['b'], ['c']]) == ['a', 'b', 'c']
    assert take_gpus([['a', 'b'], ['c', 'd']], 1) == ['b', 'd']
    first, second = take_gpus([['a'], ['a']])           # the very same one
    assert first == 'a' and second.startswith('process 1 needs GPU 1 and sees 1; ')


def test_gradients_of_gpus_are_not_packed_by_kernels_that_do_not_compile(monkeypatch):
    find_mpiexec()
    import chainermn
    from chainermn.communicators import pure_nccl_communicator
    from mpi4py import MPI
    nccl = SimpleNamespace(_available=True, get_build_version=lambda: 22707, get_version=lambda: 22707)
    monkeypatch.setattr(pure_nccl_communicator, 'nccl', nccl)
    monkeypatch.setattr(pure_nccl_communicator._memory_utility, 'DeviceMemory', SimpleNamespace)
    asked = []
    monkeypatch.setattr(pure_nccl_communicator.PureNcclCommunicator, 'multi_node_mean_grad',
                        lambda self, model: asked.append((self.batched_copy, model)))
    hook = Processes(MPI.COMM_WORLD).mean_gradients(SimpleNamespace(xp=cuda.cupy))
    hook(SimpleNamespace(target='model'))
    assert asked == [(False, 'model')]
    assert chainermn.create_communicator('pure_nccl', MPI.COMM_WORLD).batched_copy   # or there is nothing to be done


# ---- Training

def test_two_processes_train_as_one_does(trained):
    one, _ = trained(1, '--dropout', '0')
    two, printed = trained(2, '--dropout', '0')
    expected = figures(one)
    for got, wanted in zip(figures(two), expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-5)
    assert printed.count('elapsed_time') == 1           # one table, and as many rows as epochs
    assert len(printed.splitlines()) == 1 + len(expected)
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    weights = read_npz(one / 'weights.npz')
    for name, array in read_npz(two / 'weights.npz').items():
        np.testing.assert_allclose(array, weights[name], atol=1e-4)


def test_a_training_in_two_processes_goes_on_from_the_middle_of_an_epoch(together, trained, dataset_dir, tmp_path):
    options = '--snapshot-every', '2', '--keep-snapshots', '99'
    whole, _ = trained(2, *options)
    part = shutil.copytree(whole, tmp_path / 'part')
    updates = sorted(int(path.stem.split('-')[1]) for path in part.glob('snapshot-*.npz'))
    per_epoch = figures(whole)[0]['iteration']
    middle = next(update for update in updates if update > 2 * per_epoch and update % per_epoch)
    for update in updates:
        if update > middle:
            (part / f'snapshot-{update}.npz').unlink()
    done = together(2, SCRIPTS / 'train.py', dataset_dir, '-o', part, *OPTIONS, *options, '--resume')
    assert (done.returncode, done.stderr) == (0, '')
    left, expected = left_by_training(part), left_by_training(whole)
    assert left['log.json'] == [pytest.approx(entry, rel=1e-6) if 'samples' not in entry else entry
                                for entry in expected['log.json']]
    name = f'snapshot-{updates[-1]}.npz'
    for key, value in expected.items():
        if key.startswith(('weights.npz', f'{name} updater')):
            assert left[key] == value


def test_the_number_of_processes_may_change(together, trained, dataset_dir, tmp_path):
    two = shutil.copytree(trained(2, '--dropout', '0')[0], tmp_path / 'two')
    one = shutil.copytree(trained(1, '--dropout', '0')[0], tmp_path / 'one')
    for size, folder in (1, two), (2, one):
        longer = [*OPTIONS, '--dropout', '0', '--epochs', '5', '--resume']
        assert together(size, SCRIPTS / 'train.py', dataset_dir, '-o', folder, *longer).returncode == 0
    assert figures(one)[-1] == pytest.approx(figures(two)[-1], abs=1e-4)


def test_all_processes_have_the_same_weights(together, dataset_dir, tmp_path):
    program = '''if True:
        import sys
        from chainer_caption import cli
        from chainer_caption.storage.serializers import arrays_digest, to_arrays
        from chainer_caption.training.extensions import Log
        write = Log._complete
        def complete(self, entry):
            write(self, entry)
            print(f'epoch {entry["epoch"]}', arrays_digest(to_arrays(model[0])), flush=True)
        from chainer_caption.models import ShowAndTell
        model = []
        moved = ShowAndTell.to_device
        ShowAndTell.to_device = lambda self, device: model.append(self) or moved(self, device)
        Log._complete = complete
        sys.exit(cli.run('train', sys.argv[1:]))'''
    done = together(3, '-c', program, dataset_dir, '-o', tmp_path / 'model', *OPTIONS)
    said = [line for line in done.stdout.splitlines() if line.startswith('epoch ') and len(line.split()) == 3]
    assert done.returncode == 0
    assert len(said) == 3 * 4 and len(set(said)) == 4


def test_an_extension_of_one_process_alone_is_logged_and_goes_on(together, dataset_dir, tmp_path):
    program = '''if True:
        import sys
        from chainer_caption import Dataset, Settings, train
        from chainer_caption.parallel import Processes
        import chainer
        class Count(chainer.training.Extension):
            trigger = 1, 'epoch'
            priority = chainer.training.PRIORITY_WRITER
            count = 0
            def __call__(self, trainer):
                self.count += 1
                chainer.report({'count': self.count})
            def serialize(self, serializer):
                self.count = serializer('count', self.count)
        processes = Processes.started()
        for epochs in 1, 2:
            train(Dataset(sys.argv[1]), sys.argv[2], Settings(epochs=epochs, hidden=8, batch_size=16), resume=True,
                  extensions=[Count()] if processes.first else [], processes=processes)'''
    done = together(2, '-c', program, dataset_dir, tmp_path / 'model')
    assert (done.returncode, done.stderr) == (0, '')
    assert [entry['count'] for entry in figures(tmp_path / 'model')] == [1, 2]


# ---- Captions

def test_two_processes_caption_a_folder_as_one_does(together, demo_model, tmp_path):
    folder = tmp_path / 'images'
    shutil.copytree(UNSEEN, folder, ignore=shutil.ignore_patterns('*.json'))
    (folder / 'broken.png').write_bytes(b'no image')
    written = []
    for size in 1, 3:
        out = tmp_path / f'{size}.jsonl'
        done = together(size, SCRIPTS / 'generate.py', '-m', demo_model, folder, '-o', out, '--beam-width', '3')
        assert done.returncode == 1                     # one image failed, and is named once
        assert done.stderr.count('broken.png') == 1
        assert sorted(path.name for path in tmp_path.glob(f'{size}.*')) == [out.name]
        written.append(out.read_bytes())
    assert written[0].count(b'\n') == 49
    assert written[0] == written[1]


KILLED = '''if True:
    import os, signal, sys
    from chainer_caption import cli
    from chainer_caption.storage import journal
    append = journal.Journal.append
    def killed(self, row):
        append(self, row)
        killed.count += 1
        if killed.count == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
    killed.count = 0
    journal.Journal.append = killed
    sys.exit(cli.run('generate', sys.argv[2:]))'''


@pytest.mark.parametrize('stored', [False, True], ids=['images', 'stored features'])
def test_a_killed_run_goes_on_together(stored, together, demo_model, model_dir, make_dataset, tmp_path):
    whole, part = tmp_path / 'whole.jsonl', tmp_path / 'part.jsonl'
    # Of these 16, of those 512 are computed together.
    arguments = ('-m', model_dir, '--dataset', make_dataset(images=800, splits=['test'])) if stored else \
        ('-m', demo_model, UNSEEN)
    options = '--beam-width', '3', '--top', '2'
    assert together(2, SCRIPTS / 'generate.py', *arguments, *options, '-o', whole).returncode == 0
    assert together(2, '-c', KILLED, 600 if stored else 25, *arguments, *options, '-o', part).returncode != 0
    assert not part.exists() and part.with_name('part.jsonl.part').exists()
    assert together(2, SCRIPTS / 'generate.py', *arguments, *options, '-o', part).returncode == 0
    assert part.read_bytes() == whole.read_bytes() and not part.with_name('part.jsonl.part').exists()


def test_stored_features_are_shared_too(together, dataset_dir, model_dir, tmp_path):
    arguments = SCRIPTS / 'generate.py', '-m', model_dir, '--dataset', dataset_dir, '--split', 'train', '-o'
    for size in 1, 2:
        assert together(size, *arguments, tmp_path / f'{size}.jsonl').returncode == 0
    assert (tmp_path / '1.jsonl').read_bytes() == (tmp_path / '2.jsonl').read_bytes()


# ---- What goes wrong

def test_what_is_wrong_for_all_is_said_once(together, tmp_path):
    done = together(2, SCRIPTS / 'train.py', tmp_path / 'nothing', '-o', tmp_path / 'model')
    assert done.returncode == 2
    assert done.stderr.count('no such folder') == 1


def test_one_that_fails_ends_all(together, dataset_dir, tmp_path):
    program = '''if True:
        import sys
        from chainer_caption import InputError, cli
        from chainer_caption.data import batches
        pack = batches.PackShare.__call__
        def fail(self, batch, device):
            if self.rank == 1:
                raise {}
            return pack(self, batch, device)
        batches.PackShare.__call__ = fail
        sys.exit(cli.run('train', sys.argv[1:]))'''
    done = together(2, '-c', program.format('InputError("the disk has gone")'), dataset_dir, '-o', tmp_path / 'model')
    assert done.returncode == 2 and 'the disk has gone' in done.stderr
    done = together(2, '-c', program.format('ZeroDivisionError'), dataset_dir, '-o', tmp_path / 'other')
    assert done.returncode == 1 and 'ZeroDivisionError' in done.stderr


def test_commands_for_one_process_say_so(together, dataset_dir, model_dir):
    done = together(2, SCRIPTS / 'evaluate.py', dataset_dir, '-m', model_dir)
    assert done.returncode == 2
    assert done.stderr.count('start it without mpiexec') == 1
