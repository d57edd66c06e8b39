# SPDX-License-Identifier: Apache-2.0
"""
power - what is left of a writable image when the power goes, at any moment.

recorder notes all that the engine does to its files while a workload runs;
crash says what a disk may hold when the power goes between two of these calls;
truth says what each sector may read as then; simulate opens every such disk
with the engine, and compares.
"""
