"""Processes beside a load's: told and heard, ended and killed, and nothing of ours runs in them.

Each test is a program of its own, patched by gevent as a load is; a test's process is not.
"""

import re
import subprocess
import sys
import textwrap

from tests.running import ROOT

HEAD = """
from gevent import monkey; monkey.patch_all()
import os, sys, threading, time
import gevent
from tokenswarm.load.child import Child
PY = [sys.executable, "-c"]
"""


def said_by(program: str) -> str:
    """What a program prints that begins with HEAD."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(program)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_told_by_its_stdin_and_its_last_words_are_heard() -> None:
    said = said_by(
        """
        code = ("import sys; print('begun', flush=True); "
                "print(sys.stdin.read().upper()); sys.exit(3)")
        child = Child([*PY, code], stdout=True, stderr=True)
        assert child.stdout.readline() == b"begun\\n"
        child.stdin.write(b"so be it")
        print(child.end(20.0))
        """
    )
    assert said == "Ended(said=b'SO BE IT\\n', trouble=b'', status=3, killed=False)\n"


def test_while_it_is_waited_for_everything_else_goes_on() -> None:
    said = said_by(
        """
        ticks = []
        gevent.spawn(lambda: [(ticks.append(1), gevent.sleep(0.01)) for _ in range(1000)])
        ended = Child([*PY, "import time; time.sleep(0.5)"]).end(20.0)
        print(ended.status, len(ticks) > 10)
        """
    )
    assert said == "0 True\n"


def test_it_can_be_waited_for_without_a_limit_when_nothing_else_is_left_to_do() -> None:
    said = said_by('print(Child([*PY, "import time; time.sleep(0.2)"]).end(None).status)')
    assert said == "0\n"


def test_who_hangs_is_killed_and_its_children_are_not_waited_for() -> None:
    said = said_by(
        """
        code = ("import os, subprocess, sys, time; print('so far', flush=True); "
                "subprocess.Popen(['sleep', '15']); time.sleep(600)")
        child = Child([*PY, code], stdout=True)
        child.stdout.readline()
        began = time.monotonic()
        ended = child.end(0.5)
        print(ended.status, ended.killed, time.monotonic() - began < 10)
        """
    )
    assert said == "-9 True True\n"


def test_what_libraries_do_after_a_fork_is_not_done_in_it() -> None:
    """As OpenTelemetry does: a thread, so that under gevent other greenlets get their turn."""
    said = said_by(
        """
        def after_fork():
            print("in the child", flush=True)
            threading.Thread(target=time.sleep, args=(600,)).start()
        os.register_at_fork(after_in_child=after_fork)
        gevent.spawn(lambda: [(print(end="", flush=True), gevent.sleep(0)) for _ in range(10**9)])
        gevent.sleep(0.01)
        for _ in range(20):
            ended = Child([*PY, "print('the program')"], stdout=True).end(20.0)
            assert (ended.said, ended.status) == (b"the program\\n", 0), ended
        print("done")
        """
    )
    assert said == "done\n"


def test_no_file_of_a_load_forks() -> None:
    for path in (ROOT / "src" / "tokenswarm" / "load").rglob("*.py"):
        assert not re.search(r"import subprocess|os\.fork|\bPopen\b", path.read_text()), path


def test_what_cannot_be_started_is_an_os_error_and_leaves_nothing_open() -> None:
    said = said_by(
        """
        gevent.get_hub()
        Child([*PY, "pass"]).end(20.0)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            try:
                Child(["/no/such/program"], stdout=True, stderr=True)
            except FileNotFoundError:
                pass
        gevent.sleep(0.05)  # gevent closes at the loop's next turn
        print(len(os.listdir("/proc/self/fd")) - before)
        """
    )
    assert said == "0\n"


def test_it_ends_with_its_parent() -> None:
    """Nobody else holds the other end of its stdin, not even a child that was started later."""
    said = said_by(
        """
        code = "import sys; sys.stdin.read(); print('ended', flush=True)"
        first = Child([*PY, code])
        second = Child([*PY, "import time; time.sleep(5)"])
        first.end(3.0)
        print("in time")
        os.kill(second.pid, 9)
        """
    )
    assert said == "ended\nin time\n"


def test_what_opentelemetry_does_after_a_fork_waits_until_the_fork_is_over() -> None:
    """Its own processor, as Locust's workers are forked; a thread's start may not switch there.
    tokenswarm.load, which a locustfile imports before Locust sets it up, sees to that."""
    said = said_by(
        """
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(SpanExporter()))
        forking = False
        def other():
            while True:
                if forking and os.getpid() != parent:
                    print("switched within the fork", flush=True)
                    os._exit(1)
                gevent.sleep(0)
        parent = os.getpid()
        gevent.spawn(other)
        gevent.sleep(0.01)
        for _ in range(20):
            forking = True
            pid = gevent.fork()
            forking = False
            if pid == 0:
                gevent.sleep(0.01)  # its turn now
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print("done")
        os._exit(0)  # an exporter's last attempt is not ours
        """
    )
    assert said.endswith("done\n")
    assert "switched" not in said
