"""``edge-bdl watch``: what monitor and gate are doing, for a person beside the robot and for Prometheus."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress

from edge_bdl.commands.arguments import Parser
from edge_bdl.commands.output import print_json
from edge_bdl_firmware.commands.arguments import add_sockets
from edge_bdl_firmware.local.channel import Inbox
from edge_bdl_firmware.watch.metrics import LOOPBACK, Metrics
from edge_bdl_firmware.watch.report import Report, Reporter
from edge_bdl_firmware.watch.screen import Screen, is_terminal, look_of_stdout
from edge_bdl_firmware.watch.view import line, render

_INTERVAL_S = 0.2  # between two views
_ONCE_S = 2.0  # everybody says everything at least once a second, to whoever was found a second ago
_PIPE_WIDTH = 80
_NO_LIMIT = 1000  # rows

Show = Callable[[Report], None]


def watch(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code: with ``--once``, 1 where nobody said anything.

    Raises:
        EdgeBdlError: Bad usage, sockets of another user, or a port that cannot be had.
    """
    parser = Parser("watch", "Show what monitor and gate are doing. They know nothing of it, and need not run yet.")
    add_sockets(parser)
    parser.add_argument(
        "--metrics", metavar="PORT", type=_port, help=f"also serve them to Prometheus at {LOOPBACK}; 0: any port"
    )
    parser.add_argument("--once", action="store_true", help="one view; exit code 1 where nobody spoke for 2 s")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(argv)
    metrics = _serve(options.metrics) if options.metrics is not None else None
    # Both are how one ends it, also where a script started it in the background, which ignores SIGINT for it; and
    # neither may leave the terminal as it is.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with Inbox(options.sockets, f"watch.{os.getpid()}") as inbox:
        watcher = _Watcher(inbox, metrics)
        return _once(watcher, options.json) if options.once else _follow(watcher, options.json)


class _Watcher:
    """Hears for both, the view and the metrics."""

    def __init__(self, inbox: Inbox, metrics: Metrics | None) -> None:
        self._inbox, self._metrics = inbox, metrics
        self.reporter = Reporter()

    def listen(self, seconds: float) -> Report:
        """Take in what comes in this time, and say how things stand then."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0.0:
            message = self._inbox.receive(left_s)
            if message is not None:
                self.reporter.hear(message, time.monotonic())
                if self._metrics is not None:
                    self._metrics.hear(message)
        now_s = time.monotonic()
        report = self.reporter.report(now_s)
        if self._metrics is not None:
            self._metrics.show(report, {name: now_s - at_s for name, at_s in self.reporter.last_heard_s.items()})
        return report


def _once(watcher: _Watcher, as_json: bool) -> int:
    until_s = time.monotonic() + _ONCE_S
    report = watcher.listen(_INTERVAL_S)
    while not watcher.reporter.complete and time.monotonic() < until_s:
        report = watcher.listen(_INTERVAL_S)
    if as_json:
        print_json(report)
    else:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else _PIPE_WIDTH
        print("\n".join(render(report, columns, _NO_LIMIT, look_of_stdout())))
    return 0 if watcher.reporter.anything else 1


def _follow(watcher: _Watcher, as_json: bool) -> int:
    screen = Screen() if is_terminal() and not as_json else None
    show: Show = print_json if as_json else _draw_on(screen) if screen is not None else _Log()
    with screen or nullcontext(), suppress(KeyboardInterrupt):
        while True:
            show(watcher.listen(_INTERVAL_S))
            sys.stdout.flush()
    return 0


def _draw_on(screen: Screen) -> Show:
    look = look_of_stdout()
    return lambda report: screen.draw(render(report, *screen.size, look))


class _Log:
    """Where stdout is a file or a pipe: one line whenever something that a person would act on has changed."""

    def __init__(self) -> None:
        self._last: tuple[object, ...] | None = None

    def __call__(self, report: Report) -> None:
        state = (
            report.level,
            report.human_in_control,
            report.bypass,
            report.other_bundle,
            report.fault is None,  # its text may hold a number that changes with every frame
            *report.silent_s,
        )
        if state != self._last:
            print(f"{time.strftime('%H:%M:%S')} {line(report)}")
        self._last = state


def _serve(port: int) -> Metrics:
    metrics = Metrics()
    chosen = metrics.serve(port)
    print(f"metrics at http://{LOOPBACK}:{chosen}/metrics", file=sys.stderr, flush=True)
    return metrics


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"expected a port below 65536, got {text!r}")
    return int(text)
