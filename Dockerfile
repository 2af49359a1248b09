# The container contract of SageMaker and similar platforms: `docker run IMAGE serve` and `docker run IMAGE train`.
# Build: docker build -t fraud-detector .
FROM python:3.12-slim
WORKDIR /opt/program
COPY pyproject.toml requirements.txt README.md LICENSE LICENSE-text ./
COPY lifecycle ./lifecycle
# The versions of the lock, without what only the book and the tests need.
RUN grep -v '^-e' requirements.txt > constraints.txt && pip install --no-cache-dir -c constraints.txt .
EXPOSE 8080
# Inside a container the platform's network is the loopback of the outside: only what is published can be reached.
ENTRYPOINT ["python", "-m", "lifecycle.container", "--host", "0.0.0.0"]
CMD ["serve"]
