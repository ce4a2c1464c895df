package spec_test

import (
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/httpapi/spec/spectest"
)

func TestGeneratedCodeIsCurrent(t *testing.T) { spectest.Current(t, "spec.go") }

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
