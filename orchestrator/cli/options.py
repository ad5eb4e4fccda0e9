"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run id or run key.")]
Storage = Annotated[str, typer.Option(help="Where runs are kept: a folder or s3://…")]
Endpoint = Annotated[str | None, typer.Option(help="URL of an S3 server that is not AWS.")]
Region = Annotated[str | None, typer.Option(help="Region of the bucket.")]
