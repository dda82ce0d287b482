"""`xtts-extend ui`: open a project in the browser."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from xtts_extend.errors import InstallationError

HELP = "Open a project in the browser."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("project", type=Path, help="Project folder. It is created if it does not exist.")
    parser.add_argument("--base-dir", type=Path, help="Folder of the base model. It is recorded in the project.")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="Address to bind to. An address that others can reach requires --password. [127.0.0.1]",
    )
    parser.add_argument(
        "--port", type=int, default=7860, help="Port to listen on. With 0, the first free port is used. [7860]"
    )
    parser.add_argument(
        "--share", action="store_true", help="Also make the page available at a public address. Requires --password."
    )
    parser.add_argument("--password", default="", help="Password for opening the page. Any user name is accepted.")
    parser.add_argument("--upload-limit", type=int, default=4096, help="Maximum upload size in megabytes. [4096]")


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C is pressed, and return 0."""
    if importlib.util.find_spec("gradio") is None:
        raise InstallationError(
            "The page needs gradio. Install it from a checkout with: python -m pip install --constraint "
            "constraints.txt -e '.[ui]'"
        )
    from xtts_extend.page.project import Project
    from xtts_extend.page.server import require_password, serve, set_environment

    require_password(args.host, share=args.share, password=args.password)
    project = Project.open(args.project, args.base_dir)
    set_environment(project.folder)
    # This imports gradio.
    from xtts_extend.page.app import build

    page = build(project, upload_limit_mb=args.upload_limit)
    serve(
        page,
        project.folder,
        host=args.host,
        port=args.port,
        share=args.share,
        password=args.password,
        upload_limit_mb=args.upload_limit,
    )
    return 0
