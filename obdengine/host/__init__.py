# SPDX-License-Identifier: Apache-2.0
"""
host - images as devices and folders of this machine.

It starts programs, asks the kernel, and keeps records of both; it knows
nothing of layers, and nothing of virtual machines.

Nothing is shown here, so that `obd doctor` can ask where nbdkit is on a
machine where the engine does not work.
"""
