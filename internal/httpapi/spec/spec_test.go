package spec_test

import (
	"testing"

	"flashsale/internal/httpapi/spec/spectest"
)

func TestGeneratedCodeIsCurrent(t *testing.T) { spectest.Current(t, "spec.go") }
