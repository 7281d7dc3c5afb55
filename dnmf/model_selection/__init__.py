"""How many components: many models in the reads of one, scores, a recommendation.

Imports `estimators` and all below.
Start reading at `rank_sweep`; `scores` and `stability` measure, `recommend` chooses and says why.
"""
