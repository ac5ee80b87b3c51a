"""Who holds what: command lines, containers, Ollama's blobs, and pids that are somebody else's."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.canned_server import canned_server
from tests.news_server import news_server
from tests.running import until
from tokenswarm.telemetry.config import Config, Engine
from tokenswarm.telemetry.owners import blobs
from tokenswarm.telemetry.owners.blobs import ShownBlobs, digest_of, names_in
from tokenswarm.telemetry.owners.commandline import named_model, said_models, short_name
from tokenswarm.telemetry.owners.container import Container, container_ids
from tokenswarm.telemetry.owners.owner import (
    ATTEMPTS,
    CHECK_S,
    NOBODY,
    UNRESOLVED,
    Owner,
    Owners,
    owners_of,
)
from tokenswarm.telemetry.owners.proc import INITIAL_PID_NAMESPACE, Proc

A, B = "a" * 64, "0123456789abcdef" * 4
POD = "pod8f2c1d3e-0f4b-4a7e-9c55-2f3b4d5e6f70"
SLICE = f"kubepods-burstable-{POD.replace('-', '_')}.slice"


@pytest.mark.parametrize(
    ("cgroup", "ids"),
    [
        # cgroup v1, docker with cgroupfs: the id in every hierarchy but, here, one
        (f"12:memory:/docker/{A}\n11:cpu,cpuacct:/docker/{A}\n1:name=systemd:/docker/{A}\n", (A,)),
        (f"4:memory:/docker/{A}\n0::/system.slice/containerd.service\n", (A,)),
        # cgroup v2, docker with systemd; rootless docker; a cgroup below the container's own
        (f"0::/system.slice/docker-{A}.scope\n", (A,)),
        (
            f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope\n",
            (A,),
        ),
        (f"0::/system.slice/docker-{A}.scope/init\n", (A,)),
        # containerd without Kubernetes (nerdctl, ctr)
        (f"0::/system.slice/nerdctl-{A}.scope\n", (A,)),
        (f"11:memory:/default/{A}\n", (A,)),
        # podman as root and rootless, cgroup v2 and v1
        (f"0::/machine.slice/libpod-{A}.scope/container\n", (A,)),
        (
            f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container",
            (A,),
        ),
        (f"9:memory:/libpod_parent/libpod-{A}\n", (A,)),
        # Kubernetes: kubelet with cgroupfs, with systemd on containerd, on CRI-O, on docker
        (f"8:memory:/kubepods/burstable/{POD}/{A}\n", (A,)),
        (f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/cri-containerd-{A}.scope\n", (A,)),
        (f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/crio-{A}.scope\n", (A,)),
        (f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/crio-{A}.scope/container\n", (A,)),
        (f"5:cpu:/kubepods.slice/{SLICE}/docker-{A}.scope\n", (A,)),
        (f"6:memory:/system.slice/containerd.service/{SLICE}:cri-containerd:{A}\n", (A,)),
        # nested: docker in docker, kind (Kubernetes in docker), the innermost first
        (f"4:memory:/docker/{A}/docker/{B}\n", (B, A)),
        (f"0::/system.slice/docker-{A}.scope/system.slice/docker-{B}.scope\n", (B, A)),
        (f"0::/docker/{A}/kubelet.slice/kubelet-{SLICE}/cri-containerd-{B}.scope\n", (B, A)),
        # seen from another cgroup namespace
        (f"0::/../docker-{A}.scope\n", (A,)),
        # ECS on Fargate, where the id is of another form
        (f"3:cpu:/ecs/{B[:32]}/{B[:32]}-1234567890\n", (f"{B[:32]}-1234567890",)),
        (f"3:cpu:/ecs/{B[:32]}/{A}\n", (A,)),
        # no container: a service, a session, conmon beside its container, our own namespace
        ("0::/system.slice/ollama.service\n", ()),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", ()),
        (f"0::/machine.slice/libpod-conmon-{A}.scope\n", ()),
        (f"0::/system.slice/crio-conmon-{A}.scope\n", ()),
        (f"4:memory:/jobs/{B[:32]}\n0::/\n", ()),
        ("0::/\n", ()),
        ("", ()),
        ("nonsense\n::\n", ()),
    ],
)
def test_a_cgroup_names_its_containers(cgroup: str, ids: tuple[str, ...]) -> None:
    assert container_ids(cgroup) == ids


@pytest.mark.parametrize(
    ("mounts", "ids"),
    [
        (
            f"612 590 259:1 /var/lib/docker/containers/{A}/resolv.conf /etc/resolv.conf rw "
            "- ext4 /dev/root rw\n",
            (A,),
        ),
        (
            f"90 80 0:25 /c/storage/overlay-containers/{A}/userdata/hostname /etc/hostname "
            "rw - tmpfs tmpfs rw\n",
            (A,),
        ),
        (
            f"70 60 8:1 /var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/{A}/hostname "
            "/etc/hostname rw - ext4 /dev/sda1 rw\n",
            (),  # the pod's, not the container's
        ),
        ("25 30 0:23 / /proc rw - proc proc rw\n", ()),
    ],
)
def test_in_one_s_own_cgroup_namespace_the_mounts_tell(mounts: str, ids: tuple[str, ...]) -> None:
    assert container_ids("0::/\n", mounts) == ids


VLLM = "/usr/bin/python3 /usr/local/bin/vllm serve"
NAMES = ("tiny", "org/tiny", "big", "qwen:7b")


@pytest.mark.parametrize(
    ("line", "said", "model"),
    [
        (f"{VLLM} org/tiny --port 8000", ["org/tiny"], "org/tiny"),
        (f"{VLLM} /models/x --served-model-name tiny other", ["tiny", "other"], "tiny"),
        (f"{VLLM} /models/big --served-model-name=mine", ["mine"], None),  # no longer big
        ("python3 -m vllm.entrypoints.openai.api_server --model big", ["big"], "big"),
        ("python3 -m sglang.launch_server --model-path /models/tiny", ["/models/tiny"], "tiny"),
        ("llama-server -m /models/tiny.gguf -c 4096", ["/models/tiny.gguf"], "tiny"),
        ("llama-server -m /models/x.gguf -a tiny", ["tiny"], "tiny"),
        ("llama-server --alias big -hf ggml-org/x:Q4", ["big"], "big"),
        ("python3 -m llama_cpp.server --model x.gguf --model_alias tiny", ["tiny"], "tiny"),
        ("text-generation-launcher --model-id big", ["big"], "big"),
        ("VLLM::EngineCore", [], None),
        ("serve.sh tiny", [], "tiny"),  # a bare word, where no option says more
        ("bench.sh tiny big", [], None),  # one that tests both serves neither
        ("python3 -m tiny", [], "tiny"),
        ("cat tiny-chat my-tiny", [], None),
        ("", [], None),
    ],
)
def test_a_command_line_says_its_model(line: str, said: list[str], model: str | None) -> None:
    arguments = line.split(" ")
    assert said_models(arguments) == said
    assert named_model(arguments, NAMES) == model


def test_a_name_for_people_has_neither_path_nor_suffix_nor_any_length() -> None:
    assert short_name("/models/tiny.Q4.gguf") == "tiny.Q4"
    assert short_name("/models/hf/tiny/") == "tiny"
    assert len(short_name("x" * 1000)) == 100


class Tree:
    """A `/proc` on disk."""

    def __init__(self, root: Path, *, host_pids: bool = True):
        self.root = root
        (root / "self" / "ns").mkdir(parents=True)
        namespace = INITIAL_PID_NAMESPACE if host_pids else "pid:[4026532571]"
        (root / "self" / "ns" / "pid").symlink_to(namespace)

    def process(
        self, pid: int, line: str, *, parent: int = 1, started: int = 1000, cgroup: str = "0::/\n",
        opened: Sequence[str] = (), name: str = "a (b) 7 8",
    ) -> None:  # fmt: skip
        folder = self.root / str(pid)
        (folder / "fd").mkdir(parents=True, exist_ok=True)
        (folder / "cmdline").write_bytes(line.replace(" ", "\0").encode() + b"\0")
        fields = ["S", str(parent), *["0"] * 17, str(started), "0", "0"]
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
        (folder / "cgroup").write_text(cgroup)
        for number, path in enumerate(opened):
            (folder / "fd" / str(number)).symlink_to(path)

    def owners(self, **more: object) -> Owners:
        return Owners(NAMES, self.root, **more)  # type: ignore[arg-type]


class Known:
    """A directory of containers that are known beforehand."""

    def __init__(self, *containers: Container):
        self._containers = {c.id: c for c in containers}

    def find(self, container_id: str) -> Container | None:
        return self._containers.get(container_id)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "proc")


def test_engine_processes_inherit_from_the_server_above_them(tree: Tree) -> None:
    tree.process(10, "bash start-all.sh tiny big")
    tree.process(11, "vllm serve org/tiny", parent=10)
    tree.process(12, "VLLM::EngineCore", parent=11)
    tree.process(13, "VLLM::Worker_TP0", parent=12)
    tree.process(20, "python3 -m sglang.launch_server --model-path big", parent=10)
    tree.process(21, "sglang::scheduler", parent=20)
    owners = tree.owners()
    assert [owners.resolve(pid).model for pid in (11, 12, 13, 20, 21, 10)] == [
        "org/tiny", "org/tiny", "org/tiny", "big", "big", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "line", "model"),
    [
        ({"tokenswarm.model": "tiny"}, "serve", "tiny"),
        ({"tokenswarm.model": "tiny"}, "serve --model big", "big"),  # the command line knows best
        ({"tokenswarm.model": "tiny"}, "serve --model /srv/else", "tiny"),
        ({"tokenswarm.target": "one"}, "serve", "big"),  # the target's only model
        ({"tokenswarm.target": "two"}, "serve", None),  # which of the two?
        ({"tokenswarm.target": "gone"}, "serve", None),
        ({"tokenswarm.model": ""}, "serve", None),
        ({}, "serve --model /srv/else", "else"),  # a neighbour that no scenario names
    ],
)
def test_labels_come_after_the_command_line_and_before_the_configuration(
    tree: Tree, labels: dict[str, str], line: str, model: str | None
) -> None:
    tree.process(7, line, cgroup=f"0::/system.slice/docker-{A}.scope\n")
    targets = {"one": ["big"], "two": ["big", "tiny"]}
    owners = tree.owners(directory=Known(Container(A, "box", labels)), targets=targets)
    assert owners.resolve(7) == Owner(model, "box")


def test_of_nested_containers_the_innermost_known_one_counts(tree: Tree) -> None:
    tree.process(7, "serve", cgroup=f"4:memory:/docker/{A}/docker/{B}\n")
    assert tree.owners(directory=Known(Container(A, "outer"))).resolve(7).container == "outer"
    both = Known(Container(A, "outer"), Container(B, "inner"))
    assert tree.owners(directory=both).resolve(7).container == "inner"
    assert tree.owners().resolve(7).container == B[:12]  # nobody knows either
    odd = Known(Container(B, "My_App.web-1"))
    assert tree.owners(directory=odd).resolve(7).container == "my_app-web-1"  # as a tag may be


def test_a_pid_that_is_used_again_is_another_process(tree: Tree) -> None:
    now = [0.0]
    owners = tree.owners(now_s=lambda: now[0])
    tree.process(7, "serve tiny", started=1000)
    assert owners.resolve(7).model == "tiny"
    tree.process(7, "serve big", started=2000)
    now[0] += CHECK_S
    assert owners.resolve(7).model == "big"


def test_what_a_process_says_later_of_itself_changes_nothing(tree: Tree) -> None:
    now = [0.0]
    owners = tree.owners(now_s=lambda: now[0])
    tree.process(7, "serve tiny")
    owners.resolve(7)
    tree.process(7, "VLLM::EngineCore")
    now[0] += CHECK_S
    assert owners.resolve(7).model == "tiny"


def test_a_process_that_says_nothing_is_asked_again_but_not_for_ever(tree: Tree) -> None:
    now = [0.0]
    tree.process(7, "")
    early, late, over = (tree.owners(now_s=lambda: now[0]) for _ in range(3))
    early.resolve(7)
    for _ in range(ATTEMPTS):
        late.resolve(7)
        over.resolve(7)
    for _ in range(ATTEMPTS):
        now[0] += CHECK_S
        over.resolve(7)
    tree.process(7, "serve tiny")
    assert early.resolve(7).model == "tiny"
    now[0] += CHECK_S
    assert (late.resolve(7).model, over.resolve(7).model) == ("tiny", None)


def test_a_pid_that_is_not_here_is_unresolved_and_not_merely_nameless(tree: Tree) -> None:
    tree.process(7, "serve")
    owners = tree.owners()
    assert owners.resolve(7) == Owner(None, None)
    assert [owners.resolve(pid) for pid in (4242, 0, -1)] == [NOBODY] * 3
    assert (NOBODY.model, NOBODY.container) == (UNRESOLVED, UNRESOLVED)
    assert owners.model(4242) is None
    tree.process(4242, "serve big")
    assert owners.resolve(4242).model == "big"  # asked anew each time


@pytest.mark.parametrize(
    ("host_pids", "opened", "resolved"),
    [
        (True, [], True),  # --pid=host, or no container at all
        (False, [], False),  # some process has that pid here, but it is not the one that NVML means
        (False, ["/dev/null", "/dev/nvidiactl", "/dev/nvidia0"], True),  # it uses the GPU: it is
        (False, ["/dev/dxg"], True),
        (False, ["/dev/null", "socket:[1]"], False),
    ],
)
def test_in_another_pid_namespace_only_a_user_of_the_gpu_is_believed(
    tmp_path: Path, host_pids: bool, opened: list[str], resolved: bool
) -> None:
    tree = Tree(tmp_path / "proc", host_pids=host_pids)
    tree.process(7, "serve tiny", opened=opened)
    assert tree.owners().resolve(7) == (Owner("tiny", None) if resolved else NOBODY)
    assert tree.owners(local=True).resolve(7) == Owner("tiny", None)  # it was found here


@pytest.mark.live
def test_a_process_without_pid_host_knows_that_pids_may_mean_others() -> None:
    code = "from tokenswarm.telemetry.owners.proc import Proc; print(Proc().sees_all())"
    argv = [sys.executable, "-c", code]
    inside = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", *argv], capture_output=True, text=True
    )
    if inside.returncode != 0:
        pytest.skip(f"no pid namespace can be made here: {inside.stderr.strip()}")
    assert inside.stdout.strip() == "False"


@contextmanager
def in_cgroup(path: Path) -> Iterator[int]:
    """A process in a real cgroup of its own: its pid."""
    try:
        path.mkdir(parents=True)
    except OSError as e:
        pytest.skip(f"no cgroup can be made here: {e}")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            (path / "cgroup.procs").write_text(str(process.pid))
            yield process.pid
        finally:
            process.communicate()
    for folder in (path, *path.parents):
        if not folder.name.startswith("tokenswarm-test") and folder != path:
            break
        folder.rmdir()


HIERARCHIES = [  # of cgroup v1, of both beside each other, and the one of v2
    root
    for name in ("pids", "memory", "unified", ".")
    if ((root := Path("/sys/fs/cgroup") / name) / "cgroup.procs").exists()
]


@pytest.mark.live
@pytest.mark.parametrize("root", HIERARCHIES, ids=lambda root: root.name)
def test_a_process_in_a_real_cgroup_is_in_its_container(root: Path) -> None:
    with in_cgroup(root / "tokenswarm-test" / A) as pid:
        assert container_ids(Proc().cgroup(pid)) == (A,)
        assert Owners(("tiny",)).resolve(pid) == Owner(None, A[:12])


def store(folder: Path, **models: str) -> Path:
    """Ollama's directory of models: `name__tag` -> digest of the weights."""
    for name, digest in models.items():
        model, _, tag = name.partition("__")
        path = folder / "manifests/registry.ollama.ai/library" / model / (tag or "latest")
        path.parent.mkdir(parents=True, exist_ok=True)
        layers = [
            {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"},
            {"mediaType": "application/vnd.ollama.image.params", "digest": f"sha256:{'f' * 64}"},
        ]
        path.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return folder


def test_a_blob_is_named_by_ollama_s_manifests(tmp_path: Path) -> None:
    models = store(tmp_path / "models", tiny=A, qwen__7b=B)
    (models / "manifests/hf.co/org/tiny-GGUF").mkdir(parents=True)
    manifest = models / "manifests/registry.ollama.ai/library/tiny/latest"
    (models / "manifests/hf.co/org/tiny-GGUF/Q4").write_bytes(manifest.read_bytes())
    (models / "manifests/registry.ollama.ai/library/broken").mkdir()
    (models / "manifests/registry.ollama.ai/library/broken/latest").write_bytes(b"{")
    assert names_in(models, A) == ["hf.co/org/tiny-GGUF:Q4", "tiny:latest"]
    assert names_in(models, B) == ["qwen:7b"]
    assert names_in(models, "f" * 64) == []  # a layer, but not the weights
    assert names_in(tmp_path / "nothing", A) == []


def test_manifests_are_not_followed_out_of_the_store(tmp_path: Path) -> None:
    elsewhere = store(tmp_path / "elsewhere", tiny=A)
    models = tmp_path / "models"
    (models / "manifests").mkdir(parents=True)
    (models / "manifests/registry.ollama.ai").symlink_to(elsewhere / "manifests/registry.ollama.ai")
    assert names_in(models, A) == []


def test_ollama_s_runner_has_its_model_s_name_as_the_scenario_spells_it(tree: Tree) -> None:
    """The paths are those in the runner's own root, as in Ollama's container."""
    folder = tree.root / "7" / "root" / "var/lib/ollama/models"
    store(folder, tiny=A, other=B)
    tree.process(6, "/bin/ollama serve")
    runner = "/bin/ollama runner --ollama-engine --model /var/lib/ollama/models/blobs/sha256-"
    tree.process(7, f"{runner}{A} --port 34567", parent=6)
    assert tree.owners().resolve(7).model == "tiny"  # not tiny:latest
    tree.process(8, f"{runner}{B}", parent=6)
    assert tree.owners().resolve(8).model == f"sha256-{B[:12]}"  # its store cannot be read


def test_where_manifests_cannot_be_read_ollama_is_asked_what_its_models_are(tree: Tree) -> None:
    asked: list[str] = []

    def show(body: bytes) -> dict[str, str]:
        name = json.loads(body)["model"]
        asked.append(name)
        digest = {"tiny": A, "qwen:7b": B}[name]
        return {"modelfile": f"# Modelfile\nFROM /srv/models/blobs/sha256-{digest}\nTEMPLATE x\n"}

    with canned_server({"/api/show": show}) as canned:
        engine = Engine("box", "ollama", canned.url, models={"tiny": "t", "qwen:7b": "q"})
        shown = ShownBlobs([Engine("v", "vllm", canned.url, models={"x": "x"}), engine])
        owners = tree.owners(shown=shown)
        for pid, digest in ((7, A), (8, B), (9, "c" * 64)):
            tree.process(pid, f"ollama runner --model /srv/models/blobs/sha256-{digest}")
        until(lambda: shown(A) is not None and shown(B) is not None)
        assert [owners.resolve(pid).model for pid in (7, 8, 9)] == [
            "tiny", "qwen:7b", "sha256-cccccccccccc",
        ]  # fmt: skip
    assert sorted(asked) == ["qwen:7b", "tiny"]  # once each


def test_a_name_that_comes_late_takes_the_place_of_a_digest(tree: Tree) -> None:
    """Who samples a GPU does not wait for Ollama's answer."""
    shown: dict[str, str] = {}
    owners = tree.owners(shown=shown.get)
    tree.process(7, f"ollama runner --model /srv/models/blobs/sha256-{A}")
    assert owners.resolve(7).model == f"sha256-{A[:12]}"
    shown[A] = "tiny:latest"
    assert owners.resolve(7).model == "tiny"


def test_an_ollama_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "SHOW_AGAIN_S", 0.05)
    with news_server("/none") as gone:
        url = gone.url
    shown = ShownBlobs([Engine("box", "ollama", url, models={"tiny": "t"})])
    assert shown(A) is None
    until(lambda: not [t for t in threading.enumerate() if t.name == "blobs"])  # not for ever
    assert shown(A) is None


def test_a_blob_is_told_from_other_paths() -> None:
    assert digest_of(f"/x/blobs/sha256-{A}") == A
    assert [digest_of(p) for p in (f"sha256-{A}", f"/x/blobs/sha256-{A[1:]}", "", "x")] == [
        None
    ] * 4


def test_a_configuration_gives_names_and_targets(tmp_path: Path) -> None:
    config = Config(
        run_id="r", t0_unix_ns=0, spool=str(tmp_path), host="h",
        engines=[Engine("box", "vllm", "http://127.0.0.1:1", models={"served": "slug"})],
    )  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", "input()", "--model", "served"], stdin=subprocess.PIPE
    ) as process:
        found = owners_of(config).resolve(process.pid)
        process.communicate(b"\n")
    assert found.model == "served"
