// Adds up the numbers that it is given on standard input.

import java.util.Scanner;

public class Sum {
    public static void main(String[] args) {
        var in = new Scanner(System.in);
        int count = 0;
        long sum = 0;
        while (in.hasNextLong()) {
            count += 1;
            sum += in.nextLong();
        }
        System.out.printf("%d numbers, sum %d%n", count, sum);
    }
}
