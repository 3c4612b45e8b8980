//! Adds up the numbers that it is given on standard input.

use std::io::{Read, stdin};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut text = String::new();
    stdin().read_to_string(&mut text)?;
    let numbers = text.split_whitespace().map(str::parse).collect::<Result<Vec<i64>, _>>()?;
    println!("{} numbers, sum {}", numbers.len(), numbers.iter().sum::<i64>());
    Ok(())
}
