"""Spark MLlib's ALS for explicit ratings, in one local JVM.

An epoch is one item stage and one user stage. Their times are in Spark's event log, so that
building the blocks, and the extra item stage that hands the model over, are left out.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from common import Arguments, Peer, Training, run
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession

NUM_BLOCKS = 10


def train(arguments: Arguments) -> Training:
    """Train once and read each epoch's time from the event log."""
    settings = {"regParam": 0.05, "nonnegative": False, "implicitPrefs": False}
    settings |= {"numUserBlocks": NUM_BLOCKS, "numItemBlocks": NUM_BLOCKS}
    with tempfile.TemporaryDirectory() as folder:
        spark = (
            SparkSession.builder.master(f"local[{arguments.threads}]")
            .config("spark.driver.memory", "8g")
            # Without checkpoints, whose time would count, the lineage grows with each epoch.
            .config("spark.driver.extraJavaOptions", "-Xss32m")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.ui.enabled", False)
            .config("spark.ui.showConsoleProgress", False)
            .config("spark.local.dir", folder)
            .config("spark.eventLog.enabled", True)
            .config("spark.eventLog.dir", Path(folder).as_uri())
            .config("spark.eventLog.compress", False)
            .config("spark.eventLog.rolling.enabled", False)
            .getOrCreate()
        )
        application = spark.sparkContext.applicationId
        try:
            ratings = spark.read.parquet(str(arguments.data.resolve())).selectExpr(
                "cast(userId as int) userId", "cast(movieId as int) movieId", "rating"
            )
            ALS(
                rank=arguments.rank,
                maxIter=arguments.epochs,
                seed=0,
                userCol="userId",
                itemCol="movieId",
                ratingCol="rating",
                **settings,
            ).fit(ratings)
        finally:
            spark.stop()
        events = [json.loads(line) for line in (Path(folder) / application).open()]
    return Training(settings, seconds_per_epoch(events, arguments.epochs))


def seconds_per_epoch(events: list[dict], epochs: int) -> list[float]:
    """Return each epoch's time, from the start of its item stage to the end of its user stage."""
    stages = [
        event["Stage Info"]
        for event in events
        if event["Event"] == "SparkListenerStageCompleted"
        and "ALS.scala" in event["Stage Info"]["Stage Name"]
    ]
    # The first such stage sends out the factors that training starts from.
    first = next(i for i, stage in enumerate(stages) if stage["Stage Name"].startswith("flatMap"))
    half_epochs = stages[first + 1 : first + 1 + 2 * epochs]
    return [
        (users["Completion Time"] - items["Submission Time"]) / 1000
        for items, users in zip(half_epochs[::2], half_epochs[1::2], strict=True)
    ]


run(
    Peer(
        name="Spark MLlib",
        package="pyspark",
        model="explicit ratings, no biases",
        solver="exact",
        dtype="float64, factors kept as float32",
        timed_by="the stages in its event log",
    ),
    train,
)
