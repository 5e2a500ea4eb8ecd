# CPU:   docker build -t mm1-lab --build-arg TORCH_INDEX=ADDRESS .      the CPU build's, as the selector on pytorch.org gives it
# CUDA:  docker build -t mm1-lab --build-arg BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 .
#        (torch 2.13's default build has CUDA 13 and needs driver 580 or later; for an older one add the TORCH_INDEX of CUDA 12's)
#        docker run --gpus all --ipc=host -v $PWD/results:/lab/results mm1-lab run data_mix --scale smoke
# --ipc=host: batches of the scales' data loader workers pass through shared memory, of which Docker gives 64 MB.
ARG BASE=python:3.12-slim
FROM ${BASE}

# Where the base has no Python with pip and venv, as CUDA's have none. torch.compile on a GPU (Triton) needs a C compiler
# and Python's headers.
RUN command -v pip >/dev/null || (apt-get update && apt-get install -y --no-install-recommends python3 python3-pip python3-venv \
    gcc libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/*)
RUN python3 -m venv /opt/mm1-lab
ENV PATH=/opt/mm1-lab/bin:$PATH

# Where pip shall look for torch first; without it, for the build that it finds by itself, with CUDA's libraries.
ARG TORCH_INDEX=
COPY requirements.lock /src/
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} -r /src/requirements.lock
COPY . /src
RUN pip install --no-cache-dir --no-deps --no-build-isolation /src

WORKDIR /lab
ENTRYPOINT ["mm1-lab"]
CMD ["--help"]
