"""At the end of a run: analysis and report, in a process that gevent never touched."""

import sys
from pathlib import Path

from tokenswarm.errors import EXIT_NOT_VALID
from tokenswarm.load.child import Child


def finish_run(
    run_dir: Path, gates: list[str], junit: str | None = None, markdown: str | None = None
) -> int:
    """Run `tokenswarm report` on `run_dir`, its table on our stdout; its exit code."""
    argv = [sys.executable, "-m", "tokenswarm", "report", str(run_dir)]
    for gate in gates:
        argv += ["--gate", gate]
    for flag, file in (("--junit", junit), ("--markdown", markdown)):
        argv += [flag, file] if file else []
    sys.stdout.flush()
    code = Child(argv).end(None).status
    if code < 0:
        sys.stderr.write(
            f"tokenswarm: the report of {run_dir} was ended by signal {-code}; "
            f"run `tokenswarm report {run_dir}` again\n"
        )
        return EXIT_NOT_VALID
    return code
