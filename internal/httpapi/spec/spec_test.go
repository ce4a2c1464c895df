package spec_test

import (
	"testing"

	"flashsale/internal/httpapi/spec/spectest"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

func TestGeneratedCodeIsCurrent(t *testing.T) {
	tier.OnlyTestAll(t, "oapi-codegen")
	spectest.Current(t, "spec.go")
}
