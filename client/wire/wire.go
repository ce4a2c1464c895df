// Package wire is what is generated from the service's OpenAPI document: the
// types of bodies, and each call as one request, without retries. Package client
// is what to call; this one is for whoever needs a single request as it is.
package wire

//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config client.cfg.yaml ../../internal/httpapi/spec/openapi.yaml
