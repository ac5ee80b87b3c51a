"""`python -m tokenswarm.sim PROFILE`: serve a profile, print its endpoints as one JSON line."""

import argparse
import sys
from pathlib import Path

import msgspec

from tokenswarm.sim.knobs import ProfileError
from tokenswarm.sim.profile import list_names, load
from tokenswarm.sim.serve import Endpoints, serve


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tokenswarm.sim", description=__doc__)
    parser.add_argument("profile", help=f"a YAML file or one of {', '.join(list_names())}")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="of the server (0: a free one)")
    parser.add_argument("--control-port", type=int, default=0, help="of the control port")
    parser.add_argument("--truth", type=Path, help="write the ground truth to this JSONL file")
    parser.add_argument("--speed", type=float, default=1.0, help="times faster than life")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ready-file", type=Path, help="write the endpoints here when ready")
    parser.add_argument(
        "--end-with-parent", action="store_true", help="end when standard input or parent ends"
    )
    return parser


def main() -> int:
    args = _parser().parse_args()

    def ready(endpoints: Endpoints) -> None:
        line = msgspec.json.encode(endpoints).decode()
        if args.ready_file:
            partial = args.ready_file.with_name(args.ready_file.name + ".part")
            partial.write_text(line + "\n", "utf-8")
            partial.replace(args.ready_file)
        print(line, flush=True)

    try:
        serve(
            load(args.profile),
            host=args.host,
            port=args.port,
            control_port=args.control_port,
            truth=args.truth,
            speed=args.speed,
            seed=args.seed,
            ready=ready,
            watch_parent=args.end_with_parent,
        )
    except (ProfileError, ValueError, OSError) as e:
        print(f"cannot simulate {args.profile}: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
