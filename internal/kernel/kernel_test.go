package kernel

import "testing"

func TestAtLeast(t *testing.T) {
	for _, c := range []struct {
		release string
		want    bool // 6.9 or newer
	}{
		{"6.9.0", true}, {"6.18.44-fc", true}, {"7.0-rc1", true}, {"6.10", true}, {"10.1.2", true},
		{"6.8.12", false}, {"5.19.0-50-generic", false}, {"6", false}, {"", false}, {"unknown", false},
	} {
		if got := atLeast(c.release, 6, 9); got != c.want {
			t.Errorf("atLeast(%q, 6, 9) = %v", c.release, got)
		}
	}
	if !AtLeast(3, 0) || AtLeast(1000, 0) {
		t.Error("the version of this kernel is not read")
	}
}
