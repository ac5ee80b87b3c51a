"""Every exception tokenswarm raises on purpose.

    TokenswarmError
      UsageError            exit code 2: what the user asked for cannot be done as asked
        ScenarioError       a scenario file; names file, path, value and the way out
      TargetError           a server under test cannot be used as the scenario says
      SpoolError            a spool segment cannot be written or read
        SourceBusyError     another process writes this source
      StartFailed           a server did not start; names what was started and why it failed
      NotValidError         exit code 3: there is no valid measurement

A failed *request* is never an exception that leaves the load generator: it is a record.
"""

EXIT_GOOD = 0
EXIT_GATE_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_VALID = 3


class TokenswarmError(Exception):
    """Base of all; `exit_code` is what the command line ends with."""

    exit_code = EXIT_NOT_VALID


class UsageError(TokenswarmError):
    """The command line, a file or a value in it is wrong; the text says the way out."""

    exit_code = EXIT_USAGE


class ScenarioError(UsageError):
    """A scenario file is wrong at `path` (a JSONPath-like place such as `$.models[1].weight`)."""

    def __init__(self, message: str, *, file: str = "", path: str = "", line: int | None = None):
        self.file, self.path, self.line = file, path, line
        place = ":".join(str(p) for p in (file, line) if p not in ("", None))
        super().__init__(": ".join(p for p in (place, path, message) if p))


class TargetError(TokenswarmError):
    """A server under test is unreachable, lacks a model or is another engine than named."""

    exit_code = EXIT_USAGE


class SpoolError(TokenswarmError):
    """A spool segment cannot be written or is damaged beyond its last good frame."""


class SourceBusyError(SpoolError):
    """A source of a spool has a writer already, in this process or another."""


class NotValidError(TokenswarmError):
    """The measurement is not valid and must not be published."""
