// Package openapi_test checks the HTTP contract as a document of OpenAPI.
package openapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"flashsale/internal/httpapi/spec"
)

func TestDocumentIsValidOpenAPI(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(spec.YAML)
	if err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("the document is OpenAPI %s, want 3.1.0", doc.OpenAPI)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
}

// Calls that may be limited say with each success what is left.
func TestLimitedCallsDeclareTheirHeaders(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(spec.YAML)
	if err != nil {
		t.Fatal(err)
	}
	limited := 0
	for _, path := range doc.Paths.Map() {
		for _, operation := range path.Operations() {
			if operation.Responses.Status(http.StatusTooManyRequests) == nil {
				continue
			}
			limited++
			for status, response := range operation.Responses.Map() {
				if status[0] != '2' && status != "304" && status != "429" {
					continue
				}
				for _, name := range []string{"RateLimit", "RateLimit-Policy"} {
					if header := response.Value.Headers[name]; header == nil || header.Value.Required {
						t.Errorf("%s does not declare, as optional, the header %s of %s", operation.OperationID, name, status)
					}
				}
			}
		}
	}
	if limited == 0 {
		t.Error("no call is limited")
	}
}

// Responses may gain fields without breaking clients that validate what they get.
func TestOnlyRequestsRejectUnknownFields(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(spec.YAML)
	if err != nil {
		t.Fatal(err)
	}
	for name, schema := range doc.Components.Schemas {
		has := schema.Value.AdditionalProperties.Has
		if strict, want := has != nil && !*has, strings.HasSuffix(name, "Request"); strict != want {
			t.Errorf("%s rejects unknown fields: %v, want %v", name, strict, want)
		}
	}
}
