# SPDX-License-Identifier: Apache-2.0
"""containers - real root file systems as images: converted, compared, and run."""
