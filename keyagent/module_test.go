package keyagent_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmkfs/hsm"
)

// module builds a PKCS#11 library that does what C code of a vendor may do.
func module(t *testing.T, statement string) hsm.Config {
	t.Helper()
	dir := t.TempDir()
	source, library := filepath.Join(dir, "module.c"), filepath.Join(dir, "module.so")
	text := fmt.Sprintf("#include <stdlib.h>\n#include <unistd.h>\n__attribute__((constructor)) static void load(void) { %s }\n", statement)
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", library, source).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return hsm.Config{Source: hsm.SourcePKCS11, PKCS11: &hsm.PKCS11Config{URI: "pkcs11:token=T;object=K?module-path=" + library}}
}

func TestAgent_ModuleThatHangs(t *testing.T) {
	hung, fine, c := module(t, "for (;;) pause();"), platformKey(t), client(t, time.Second)
	start := time.Now()
	_, err := c.Examine(t.Context(), hung)
	want(t, err, hsm.KindUnreachable, "AgentHung")
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("a deadline of one second took %v", d)
	}
	if _, err := c.Examine(t.Context(), fine); err != nil {
		t.Errorf("another key after it: %v", err)
	}
}

func TestAgent_ModuleThatHangsDoesNotFailOthers(t *testing.T) {
	hung, fine, c := module(t, "for (;;) pause();"), platformKey(t), client(t, 2*time.Second)
	result := make(chan error, 1)
	go func() {
		_, err := c.Examine(t.Context(), hung)
		result <- err
	}()
	for range 20 {
		if _, err := c.Examine(t.Context(), fine); err != nil {
			t.Errorf("a key beside a hung module: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	want(t, <-result, hsm.KindUnreachable, "AgentHung")
}

func TestAgent_ModuleThatCrashes(t *testing.T) {
	c := client(t, 0)
	for _, statement := range []string{"abort();", "*(volatile int *)0 = 1;", "_exit(3);"} {
		_, err := c.Examine(t.Context(), module(t, statement))
		want(t, err, hsm.KindUnreachable, "AgentDied")
	}
	if _, err := c.Examine(t.Context(), platformKey(t)); err != nil {
		t.Errorf("another key after it: %v", err)
	}
}

func TestAgent_LibraryThatIsNoModule(t *testing.T) {
	c := client(t, 0)
	_, err := c.Examine(t.Context(), module(t, ""))
	want(t, err, hsm.KindMisconfigured, "ModuleNotLoadable")
	if err != nil && !strings.Contains(err.Error(), "PKCS#11") {
		t.Errorf("unclear: %v", err)
	}
}
