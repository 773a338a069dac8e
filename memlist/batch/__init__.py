"""Make many images at once, on a CPU or on a GPU.

A front end says with a `Plan` where each output pixel comes from; this folder gets it there. It knows no library's
transforms and may import NumPy, torch and numba, but none of memlist's other folders.

- `pixels`: the pixels of one image; `plan`: what is to be done to the images of a batch
- `kernels`: the formulas compiled for a CPU by numba; `render`: the same formulas in torch, for any device
- `cpu`: which of the two makes a batch on a CPU; `maker`: images and a plan in, a batch out
- `buffers`, `threads`: the memory and the threads of a process that makes batches
- `gathered`, `sending`: bytes that are sent to a GPU, and batches that are sent between processes

To add a transform whose effect a `Plan` can already express (a projective map, lighting by gain and bias, a choice of
rows and columns, holes, replaced channels), leave this folder alone: it goes into the front end, see
`memlist/fastai1/transforms.py`. A transform of another kind, such as `saturation`, which mixes channels, needs a field
in `plan.py` and its formula in `render.py`. Put it into `Extras` and `render.finish` to have it run in torch; put it
into `kernels.py` as well to have it compiled.
"""
