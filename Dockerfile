# What: the project in an image, by the README's steps. Not built so far: no Docker daemon was at hand.
# Commands: docker build -t sfc-wsss .
#           docker run --rm --shm-size 2g -v "$PWD/results:/home/sfc/results" sfc-wsss search --space msdw.yaml
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

COPY . /opt/sfc-wsss
RUN pip install --no-cache-dir /opt/sfc-wsss

# Results belong to the account with this number: --build-arg UID="$(id -u)" makes it yours.
ARG UID=1000
RUN useradd --create-home --uid "$UID" sfc && install -d -o sfc /home/sfc/results
USER sfc
WORKDIR /home/sfc

ENTRYPOINT ["sfc"]
CMD ["--help"]
