# SPDX-License-Identifier: Apache-2.0
"""
bench - how fast it is, beside what else there is, in one run.

Every rival is measured in turn, round after round, so that a slow minute of
the machine hits all alike; what counts is a ratio of medians. No time is ever
asserted. What is asserted is that all of them did the same work.
"""
