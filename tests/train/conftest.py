"""The networks here are small: a second thread would mostly wait, above all where other tests run beside it."""

import torch

torch.set_num_threads(1)
