// Package spec is the service's HTTP contract, openapi.yaml, and the code that is
// generated from it: the types of bodies, and the interface of the handlers.
package spec

import _ "embed"

//go:generate go tool -modfile=../../../tools/oapi-codegen.mod oapi-codegen -config server.cfg.yaml openapi.yaml

// YAML is the contract, an OpenAPI 3.1 document.
//
//go:embed openapi.yaml
var YAML []byte
