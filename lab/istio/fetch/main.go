// Command fetch gets one bundle as istiod does, with istiod's own code and nothing beside it, and prints what istiod would
// believe: the SHA-256 of each root. Roots for the endpoint's certificate are the system's, so SSL_CERT_FILE changes them.
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"time"

	"istio.io/istio/pkg/spiffe"
)

func main() {
	patience := flag.Duration("patience", 10*time.Second, "how long to try again; istiod's own is the default")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: fetch [-patience DURATION] TRUST_DOMAIN URL")
		os.Exit(2)
	}
	trustDomain := flag.Arg(0)
	roots, err := spiffe.RetrieveSpiffeBundleRootCerts(map[string]string{trustDomain: flag.Arg(1)}, nil, *patience)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, root := range roots[trustDomain] {
		fmt.Printf("%x\n", sha256.Sum256(root.Raw))
	}
}
