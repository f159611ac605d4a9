"""Spark's top k for a sample of users, with its own small model: MODEL DATASET USERS K.

Only the shape counts for the time, so an ALSModel with factors of ours is made from one of Spark's
saved models: same ranks, same items.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

import numpy as np
from pyspark.ml.recommendation import ALS, ALSModel
from pyspark.sql import SparkSession
from recommend_data import read_side

model_path, _, n_sample, k = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
user_bias, users = read_side(model_path, "users")
item_bias, items = read_side(model_path, "items")
weights = {
    "userFactors": np.column_stack([users, np.ones_like(user_bias)]),
    "itemFactors": np.column_stack([items, item_bias]),
}
with tempfile.TemporaryDirectory() as folder:
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", "8g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.enabled", False)
        .config("spark.ui.showConsoleProgress", False)
        .config("spark.local.dir", folder)
        .getOrCreate()
    )
    tiny = spark.createDataFrame([(0, 0, 1.0), (1, 1, 2.0)], ["user", "item", "rating"])
    rank = weights["userFactors"].shape[1]
    ALS(rank=rank, maxIter=1, userCol="user", itemCol="item").fit(tiny).save(f"{folder}/model")
    schema = "id int, features array<float>"
    for name, values in weights.items():
        rows = [(i, row) for i, row in enumerate(values.tolist())]
        frame = spark.createDataFrame(rows, schema).repartition(10)
        frame.write.mode("overwrite").parquet(f"{folder}/model/{name}")
    model = ALSModel.load(f"{folder}/model")

    def seconds(n: int) -> float:
        """Recommend to the first n users."""
        sample = spark.createDataFrame([(i,) for i in range(n)], "user int")
        start = time.perf_counter()
        model.recommendForUserSubset(sample, k).write.mode("overwrite").parquet(f"{folder}/out")
        return time.perf_counter() - start

    seconds(n_sample)  # The virtual machine compiles what is run often.
    few, twice = seconds(n_sample), seconds(2 * n_sample)
    spark.stop()
of_a_user = (twice - few) / n_sample
print(
    json.dumps(
        {
            "sample": [n_sample, 2 * n_sample],
            "sample_seconds": [few, twice],
            "median": twice + of_a_user * (len(users) - 2 * n_sample),
            "timed": f"extrapolated from {n_sample:,} users and twice as many",
        }
    )
)
