"""Who judges answers: our rules, published keyword lists, what the policy did, and models that read.

Nothing is imported here. `base` says what a judge is; `rules` and `matchers` look for words, and `defaults` has both;
`forced_action` reports a fact; `endpoint` and `local_model` ask a model by the prompts of `prompts` and `rubrics`;
`agreement` compares judges; `unknown_refusals` checks the texts of a policy.
"""
