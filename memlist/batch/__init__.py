"""Make many images at once, on a CPU or on a GPU.

A front end describes with a `Plan` where each output pixel comes from; this folder computes the pixels. It knows no
library's transforms and may import NumPy, torch, numba and Triton, but no other folder of memlist.

- `pixels`: the pixels of one image; `plan`: what to do to the images of a batch
- `kernels` and, for masks, `mask_kernels`: the formulas compiled for a CPU by numba; `render`: the same formulas in
  torch, for any device
- `cpu`: chooses between the two on a CPU; `maker`: makes a batch from images and a plan
- `buffers`, `threads`: the memory and the threads of a process that makes batches
- `fused_triton`: the formulas of `render` in one kernel, compiled for a GPU by Triton; `fused` starts it, where it can
- `packed`, `table`, `regions`, `parts`: what a device needs to make a batch, in one block of bytes
- `streams`, `ahead`: batches that a device makes beside the training
- `staging`, `lent`: memory from which a GPU copies while the processor goes on: of this process, and of workers
- `sending`: batches that are sent between processes

A transform whose effect a `Plan` can already express (a projective map, lighting by gain and bias, a choice of rows and
columns, holes, replaced channels) needs no change in this folder: add it to the front end, see
`memlist/fastai1/transforms.py`. A transform of another kind, such as `saturation`, which mixes channels, needs a field
in `plan.py`, which the front end's planner fills, one in `table.py`, and its formula in `render.py`, next to `_light`.
To have it compiled, add it to `kernels.py` and to `compiled.py`, which hands the plan's arrays to the kernels, and for
a GPU to `fused_triton.py`; until then, `Fused.make` has to leave plans with the new field to `render`.
"""
