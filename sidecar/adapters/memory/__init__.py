"""Twins of every port in memory, under the same contract tests as the real adapters.

They are product code: pipeline tests, simulations and a sidecar without a bus run on them.
"""
