"""``edge-bdl verify``: a bundle's files, its signature, and its golden outputs on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_bdl.bundle import Bundle
from edge_bdl.commands.arguments import BundleParser, add_json, read_key
from edge_bdl.commands.output import columns, print_json
from edge_bdl.engines import open_engine
from edge_bdl.errors import BundleError, EngineError, InputError, MissingExtraError, SignatureError
from edge_bdl.verification import Check, verify_engine, verify_generator


def verify(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code: 1 where a check failed.

    Raises:
        EdgeBdlError: Bad usage, or an engine that was asked for is not installed.
    """
    parser = BundleParser(
        "verify", "Check a bundle's files and signature, and its golden outputs under each installed engine."
    )
    parser.add_argument("--engine", action="append", help="check this engine, and insist on it (may be repeated)")
    add_json(parser)
    options = parser.parse_args(argv)
    if not options.bundle.is_dir():
        raise InputError(f"{options.bundle} is not a bundle folder")
    checks, skipped = _checks(options.bundle, read_key(options.trusted_key), options.engine)
    ok = all(check.passed for check in checks)
    if options.json:
        print_json({"ok": ok, "checks": checks})
    else:
        print(_text(checks, skipped, ok))
    return 0 if ok else 1


def _checks(path: Path, trusted_key: bytes | None, wanted: Sequence[str] | None) -> tuple[list[Check], list[str]]:
    """All checks, and why engines were left out."""
    try:
        bundle = Bundle.open(path, trusted_key)
    except BundleError as error:
        name = "signature" if isinstance(error, SignatureError) else "files"
        return [Check(name=name, passed=False, detail=str(error))], []
    size = sum(entry.bytes for entry in bundle.manifest.files.values())
    checks = [Check(name="files", passed=True, detail=f"{len(bundle.manifest.files)} files, {size:,} bytes")]
    if trusted_key is not None:
        checks.append(Check(name="signature", passed=True, detail="by the trusted key"))
    golden = bundle.golden()
    checks += verify_generator(bundle.manifest, golden)
    skipped = []
    for name in wanted or bundle.manifest.engines:
        try:
            engine = open_engine(name, bundle.folder, bundle.manifest)
        except MissingExtraError as error:
            if wanted:
                raise
            skipped.append(f"{name} was not checked: {error}")
        except EngineError as error:
            checks.append(Check(name="opens", engine=name, passed=False, detail=str(error)))
        else:
            checks += verify_engine(engine, bundle.manifest, bundle.bank(), golden)
    if len(skipped) == len(bundle.manifest.engines):
        checks.append(Check(name="engine", passed=False, detail=skipped[0]))
    return checks, skipped


def _text(checks: Sequence[Check], skipped: Sequence[str], ok: bool) -> str:
    rows = [("ok" if check.passed else "FAILED", check.engine or "", check.name, check.detail) for check in checks]
    return "\n".join([columns(rows, indent=""), *skipped, "verified" if ok else "NOT verified: do not run this bundle"])
