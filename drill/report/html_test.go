package report_test

import (
	"testing"

	"cmkfs/drill/report"
)

func TestWriteHTML_Empty(t *testing.T) {
	if err := report.WriteHTML(t.TempDir(), nil); err != nil {
		t.Fatal(err)
	}
	if err := report.WriteHTML(t.TempDir(), []*report.Report{{Drill: "none"}}); err != nil {
		t.Fatal(err)
	}
}
