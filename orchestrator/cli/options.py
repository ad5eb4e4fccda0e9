"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
Timeout = Annotated[float | None, typer.Option(min=0, help="Give up after that many seconds (exit 124).")]
ResultFile = Annotated[Path | None, typer.Option(help="Write the result, or the error, to this file as JSON.")]
OutputDir = Annotated[Path | None, typer.Option(help="Write one file for each value of the result to this folder.")]
