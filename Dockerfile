# syntax=docker/dockerfile:1
#
# Two images from one build: api, the service, and loadtest, which attacks it.
# Each is one static program in an empty image: no shell, no package manager, no
# root.
#
#   docker build --target api --build-arg COMMIT=$(git rev-parse HEAD) --build-arg SOURCE_DATE_EPOCH=$(git log -1 --pretty=%ct) -t flashsale/api .
#
# The same tree gives the same programs, wherever and whenever it is built: the
# toolchain is the image's, to the patch release, and go.sum has a hash of every
# module. With SOURCE_DATE_EPOCH the layers are the same as well. Who wants to
# pin the toolchain's image to the byte gives its digest:
# --build-arg GO_IMAGE=golang:1.26.8-bookworm@sha256:...
ARG GO_IMAGE=golang:1.26.8-bookworm

# On the machine's own platform: Go compiles for any other.
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
# No other toolchain is fetched, and none of the machine's Go settings hold.
ENV CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly GOWORK=off
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
ARG COMMIT=
ARG SOURCE_DATE_EPOCH=0
# The line is the Makefile's, without the symbols that only a debugger reads. What
# the images take gets the time of the source, or each build would make other layers.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    LDFLAGS="-s -w -buildid= -X flashsale/internal/version.release=$VERSION -X flashsale/internal/version.commit=$COMMIT -X flashsale/internal/version.epoch=$SOURCE_DATE_EPOCH" && \
    mkdir -p /image/api /image/loadtest/out /image/certs && \
    GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false -ldflags "$LDFLAGS" -o /image/api/api ./cmd/api && \
    GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false -ldflags "$LDFLAGS" -o /image/loadtest/loadtest ./loadtest && \
    cp /etc/ssl/certs/ca-certificates.crt /image/certs/ && \
    find /image -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

FROM scratch AS loadtest
COPY --from=build /image/certs/ /etc/ssl/certs/
# A named volume that is mounted here is made with the owner of this folder.
COPY --from=build --chown=65532:65532 /image/loadtest/out/ /out/
COPY --from=build /image/loadtest/loadtest /loadtest
USER 65532:65532
ENTRYPOINT ["/loadtest"]
CMD ["--help"]

# The last one: what a build makes that names no target.
FROM scratch AS api
COPY --from=build /image/certs/ /etc/ssl/certs/
COPY --from=build /image/api/api /api
USER 65532:65532
EXPOSE 8080
# The program asks itself: there is no curl. It finds its port and its certificate
# by the variables that serve has them by (FLASHSALE_ADDR, FLASHSALE_TLS_CERT,
# FLASHSALE_CONFIG), and not by serve's arguments. Its start is left the time that
# a replica waits for MySQL and etcd.
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --start-interval=1s --retries=3 CMD ["/api", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/api"]
CMD ["serve"]
