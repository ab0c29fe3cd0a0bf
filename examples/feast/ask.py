"""Asks Feast what was known of a product and a customer at three moments: a point-in-time join over what curec has published.

    python3 ask.py [ITEM USER]     # after `feast apply` in out/feature_repo
"""

import os
import sys
from pathlib import Path

import pandas
from feast import FeatureStore

ITEM, USER = sys.argv[1:3] if len(sys.argv) == 3 else ("O-401", "c28")
MOMENTS = ["2026-03-05T12:00:00Z", "2026-03-10T12:00:00Z", "2026-03-16T12:00:00Z"]
VIEWS = ("item_feature", "user_feature")

os.chdir(Path(__file__).resolve().parent / "out/feature_repo")
store = FeatureStore(repo_path=".")
asked = pandas.DataFrame({"item_id": ITEM, "user_id": USER, "event_timestamp": pandas.to_datetime(MOMENTS)})
# Both views have columns of the same names, so the names are to be full.
features = [f"{view}__{column}" for view in VIEWS for column in ("source", "n_reasons", "embedding")]
found = store.get_historical_features(
    entity_df=asked, features=[name.replace("__", ":") for name in features], full_feature_names=True
).to_df()
for row in found.sort_values("event_timestamp").to_dict("records"):
    told = []
    for view in VIEWS:
        vector = row[f"{view}__embedding"]
        is_there = hasattr(vector, "__len__")
        told.append(f"{view}: {row[f'{view}__source']}, {vector[0]:.4f} ..." if is_there else f"{view}: nothing")
    print(f"{row['event_timestamp']:%d %B}  {'  '.join(told)}")
