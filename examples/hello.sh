# Writes to both streams, a line at a time.

echo "Hello from Bash $BASH_VERSION"
for number in 3 2 1; do
  sleep 0.1
  echo "$number ..."
done
echo "This line goes to standard error." >&2
sleep 0.1
echo "Done. 🎉"
