// Package wire is what is generated from the service's OpenAPI document: the
// types of bodies, and each call as one request, without retries. Package client
// is what to call; this one is for whoever needs a single request as it is.
package wire

//go:generate go tool -modfile=../../tools/oapi-codegen.mod oapi-codegen -config client.cfg.yaml ../../internal/httpapi/spec/openapi.yaml
