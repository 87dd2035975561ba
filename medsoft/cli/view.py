"""The verb ``view``: a local web page over what a run or a folder holds."""

from __future__ import annotations

from medsoft.errors import InputError, check_range


def view(paths: list[str], port: int | None = None, open: bool = True, patients: bool = False) -> int:
    """Show pictures, slides, volumes and predictions in the browser; takes notes and verdicts.

    Args:
        paths: Folders of runs, of medsoft slides, or of images, volumes and slides; or such files; annotation files, or
            a folder of them, are drawn on the slides that they are named after.
        port: Port on this machine; any free one if not given.
        open: Open the browser; the address is printed in any case.
        patients: Show the columns that say whose a sample is.

    Returns:
        0, when it is stopped with Ctrl-C.

    Raises:
        InputError: a package is missing, or there is nothing to show.
    """
    if port is not None:
        check_range("port", port, 1, 65535)
    try:
        from medsoft.viewer.app import make_app
        from medsoft.viewer.serve import listen, make_server, new_token, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise InputError(f"medsoft view: {error.name} is not installed: pip install 'medsoft[view]'") from None
    from medsoft.viewer.find import find_cases

    collection = find_cases(paths, patients)
    for note in collection.notes:
        print(f"Note: {note}")
    kinds = {kind: sum(case.kind == kind for case in collection.cases) for kind in ("slide", "picture", "volume")}
    counted = ", ".join(f"{n} {kind}{'s' if n != 1 else ''}" for kind, n in kinds.items() if n) or "no pictures"
    print(f"{len(collection.cases)} cases ({counted}). Stop with Ctrl-C.")
    token = new_token()
    app = make_app(collection, token)
    bound = listen(port)
    try:
        serve(make_server(app, bound, token, open), bound)
    except KeyboardInterrupt:  # the usual end
        print("Stopped.")
    return 0
