"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Interrupt(StrEnum):
    """What a signal that ends the waiting does to the job."""

    DETACH = "detach"
    STOP = "stop"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run id or run key.")]
Storage = Annotated[str, typer.Option(help="Where runs are kept: a folder or s3://…")]
Endpoint = Annotated[str | None, typer.Option(help="URL of an S3 server that is not AWS.")]
Region = Annotated[str | None, typer.Option(help="Region of the bucket.")]
JobPath = Annotated[str, typer.Argument(metavar="JOB", help="The job file (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the job, such as train.epochs=20.")
]
RunId = Annotated[str | None, typer.Option(help="Name of the run; any text, such as a scheduler's run id.")]
Fresh = Annotated[bool, typer.Option(help="Start a new run of the same job.")]
Smoke = Annotated[
    bool, typer.Option(help="The job made small: 2 members, 1 epoch, 512 rows of each set; its run has its own id.")
]
AcceptCodeChange = Annotated[
    bool, typer.Option(help="Go on with a run although the job's own code has changed since it began.")
]
Timeout = Annotated[float | None, typer.Option(min=0, help="Give up after that many seconds (exit 124).")]
ResultFile = Annotated[Path | None, typer.Option(help="Write the result, or the error, to this file as JSON.")]
OutputDir = Annotated[Path | None, typer.Option(help="Write one file for each value of the result to this folder.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="The cluster's job server, http://HEAD:8265, through which the run was submitted; without it storage is "
        "asked."
    ),
]
SubmitAddress = Annotated[
    str | None,
    typer.Option("--address", help="http://HEAD:8265; default from RAY_API_SERVER_ADDRESS, else RAY_ADDRESS."),
]
Headers = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="NAME=VALUE",
        help="An HTTP header for the job server, besides those in RAY_JOB_HEADERS; may be given again.",
    ),
]
OnInterrupt = Annotated[
    Interrupt | None,
    typer.Option(
        help="What becomes of the job when this command is ended by a signal while it waits: default `detach` for "
        "Ctrl-C, `stop` for SIGTERM, by which a scheduler gives its task up."
    ),
]
