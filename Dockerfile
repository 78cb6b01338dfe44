# syntax=docker/dockerfile:1

ARG PYTHON=3.13-slim

# Wheels of everything, built where compilers may be; the final image sees only what was installed.
FROM python:${PYTHON} AS build
WORKDIR /src
RUN python -m venv /opt/agentsvc
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY agentsvc agentsvc
RUN /opt/agentsvc/bin/pip install --no-cache-dir --constraint constraints.txt pip \
 && /opt/agentsvc/bin/pip install --no-cache-dir --constraint constraints.txt --build-constraint constraints.txt . \
 && /opt/agentsvc/bin/pip uninstall --yes pip

FROM python:${PYTHON}
RUN useradd --system --uid 10001 --user-group --no-create-home agentsvc \
 && install --directory --owner agentsvc --group agentsvc /var/lib/agentsvc
COPY --from=build /opt/agentsvc /opt/agentsvc
ENV PATH=/opt/agentsvc/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    AGENTSVC_GRPC_ADDRESS=0.0.0.0:50051 \
    AGENTSVC_HTTP_ADDRESS=0.0.0.0:8080
# AGENTSVC_GRPC_PLAINTEXT is left to whoever deploys: plaintext beyond loopback must be asked for, or TLS given.
USER agentsvc
WORKDIR /var/lib/agentsvc
VOLUME /var/lib/agentsvc
EXPOSE 50051 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s CMD ["agentsvc", "health"]
ENTRYPOINT ["agentsvc"]
CMD ["serve"]
