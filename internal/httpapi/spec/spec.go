// Package spec is the service's HTTP contract, openapi.yaml, and what is generated
// from it: the types of bodies, and the interface that the handlers fulfil. The
// contract is edited by hand, and everything else follows it.
package spec

import _ "embed"

//go:generate go tool -modfile=../../../tools/oapi-codegen.mod oapi-codegen -config server.cfg.yaml openapi.yaml

// YAML is the contract itself, an OpenAPI 3.1 document.
//
//go:embed openapi.yaml
var YAML []byte
