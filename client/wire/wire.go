// Package wire is generated from the service's OpenAPI document: the types of
// bodies, and one function for each request. It does not retry: most programs
// should use package client instead.
package wire

//go:generate go tool -modfile=../../tools/oapi-codegen.mod oapi-codegen -config client.cfg.yaml ../../internal/httpapi/spec/openapi.yaml
