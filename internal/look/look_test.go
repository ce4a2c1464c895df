package look

import "testing"

func TestModulesAreJoinedIntoAScript(t *testing.T) {
	t.Parallel()
	got := Join("export const one = 1;\n", "import {one} from \"./one.js\";\nexport function two() { return one + 1; } // export \nimport {\n  a,\n  b,\n} from \"./c.js\";\n")
	if want := "const one = 1;\nfunction two() { return one + 1; } // export \n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
