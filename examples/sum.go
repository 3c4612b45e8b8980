// Adds up the numbers that it is given on standard input.
package main

import (
	"bufio"
	"fmt"
	"os"
)

func main() {
	in := bufio.NewReader(os.Stdin)
	count, sum := 0, int64(0)
	for {
		var number int64
		if _, err := fmt.Fscan(in, &number); err != nil {
			break
		}
		count++
		sum += number
	}
	fmt.Printf("%d numbers, sum %d\n", count, sum)
}
