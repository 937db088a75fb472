"""Audit before deployment: group statistics, metrics, intervals, gate, report."""
