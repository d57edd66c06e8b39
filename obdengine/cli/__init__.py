# SPDX-License-Identifier: Apache-2.0
"""cli - words for a person: the command `obd`. It decides nothing about images."""
