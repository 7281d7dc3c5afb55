"""Choice of the number of components: models fitted in the same reads, scores, a recommendation.

Imports `estimators` and all below.
Start reading at `rank_sweep`; `scores` and `stability` measure, `recommend` chooses and explains.
"""
